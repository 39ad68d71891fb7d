# SPDX-License-Identifier: Apache-2.0
"""Real-world protocol without HR: photographs are upscaled and saved, and their naturalness is measured by NIQE."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import bicubic_method
from mrda.evaluation.niqe import PristineModel, niqe
from mrda.evaluation.protocols import BICUBIC
from mrda.evaluation.samples import Method, Sample
from mrda.photo.images import Source, read_rgb, to_array, to_tensor, write_image
from mrda.photo.names import distinct_names


class UnpairedRecord(NamedTuple):
    """One upscaled photograph."""

    image: str
    method: str
    niqe: float | None
    """None where there is no pristine model."""


def read_unpaired(source: Source, scale: int, border: str = "clamp") -> Sample:
    """Read a photograph as LR.

    Args:
        source: the file.
        scale: scale of its enlargement.
        border: border rule of the enlargement, see `mrda.degradations.bicubic`.

    Returns:
        LR in 8 bits and its enlargement; `hr` is (1, 3, 0, 0), and no kernel and no noise level is known.

    Raises:
        ImageError: it can't be read.
    """
    lr = quantize(to_tensor(read_rgb(source)))
    return Sample(lr, quantize(bicubic(lr, scale, border)), lr.new_empty(1, 3, 0, 0), None, 0.0)


def evaluate_unpaired(
    methods: Mapping[str, Method],
    photos: Iterable[Source],
    output: Path,
    scale: int = 4,
    *,
    model: PristineModel | None = None,
    border: str = "clamp",
    names: Mapping[Source, str] | None = None,
) -> Iterator[UnpairedRecord]:
    """Upscale photographs by methods, and by bicubic before them, into `output`/METHOD/NAME.png, 8-bit RGB.

    The folders are made where they are missing; a file that is there is replaced. The pictures are written before any
    is measured. NIQE leaves no border out.

    Args:
        methods: blind methods by name; may be empty.
        photos: LR.
        output: a folder.
        scale: the factor of all methods.
        model: model of pristine photographs, see `mrda.evaluation.niqe`; None leaves NIQE out.
        border: border of bicubic upscaling, see `mrda.degradations.bicubic`.
        names: names of the photographs; None names them so that no two are the same.

    Yields:
        For each photograph the record of bicubic, then those of the methods.

    Raises:
        ImageError: a photograph can't be read.
        ValueError: an SR has NaN values or another size than `scale` times LR's, or is too small or too flat for NIQE.
        OSError: a picture can't be written.
    """
    methods = {BICUBIC: bicubic_method(scale, border), **methods}
    photos = list(photos)
    names = dict(zip(photos, distinct_names(photos), strict=True)) if names is None else names
    for source in photos:
        sample, name = read_unpaired(source, scale, border), names[source]
        pictures = {}
        for label, upscale in methods.items():
            sr = upscale(sample).detach().cpu().float()
            _check(sr, sample.lr_up, source, label)
            path = picture_path(output, label, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures[label] = to_array(sr)
            write_image(path, pictures[label])
        for label, picture in pictures.items():
            yield UnpairedRecord(name, label, None if model is None else float(niqe(to_tensor(picture), model)))


def picture_path(output: Path, method: str, name: str) -> Path:
    """Path of a method's SR of a photograph."""
    return output / method / f"{name}.png"


def check_pictures(photos: Sequence[Source], methods: Iterable[str], output: Path) -> None:
    """Raise ValueError if a picture would replace a photograph."""
    inputs = {Path(source).resolve() for source in photos}
    for method in (BICUBIC, *methods):
        for name in distinct_names(photos):
            path = picture_path(output, method, name)
            if path.resolve() in inputs:
                raise ValueError(f"{path} is one of the photos to upscale, and would be overwritten")


def _check(sr: Tensor, like: Tensor, source: Source, label: str) -> None:
    if sr.shape != like.shape:
        raise ValueError(f"{source}: the SR of {label} has shape {tuple(sr.shape)}, but must have {tuple(like.shape)}")
    if not sr.isfinite().all():
        raise ValueError(f"{source}: the SR of {label} has NaN or infinite values")
