# SPDX-License-Identifier: Apache-2.0
"""Real-world protocol: LR and HR photographs of the same scene, both taken by a camera."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mrda.core.checks import check_scale
from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import bicubic_method
from mrda.evaluation.protocols import BICUBIC, Record, measure
from mrda.evaluation.samples import Method, Sample
from mrda.photo.images import ImageError, find_images, read_rgb, source_name, to_tensor

REAL = "real"
"""The protocol's name, and that of its only condition."""

_BEGINNING = "^im(g|age)?_"

BORDER = 4
"""HR pixels left out along each border, at any scale."""


class RealRecord(NamedTuple):
    """A `mrda.evaluation.protocols.Record` with LPIPS."""

    image: str
    condition: str
    method: str
    psnr_y: float
    ssim_y: float
    lpips: float
    """LPIPS of the whole image, in 8-bit RGB."""


class Pair(NamedTuple):
    """The files of one scene."""

    name: str
    lr: Path
    hr: Path


def find_pairs(folder: str | Path, scale: int) -> list[Pair]:
    """List the pairs of a data set.

    Files of the same name (without suffix) are a pair. The others are paired by their names without `_LR`, `_LR4`,
    `_x4`, `x4` or `_LRx4` (with the scale for 4) at the end of LR's, `_HR` or `_GT` at the end of HR's, and `im_`,
    `img_` or `image_` at the beginning of either, as in DIV2KRK.

    Args:
        folder: holds the folders LR (or LR_x4, with the scale for 4) and HR (or GT), in upper or lower case.
        scale: the factor between LR and HR; 2, 3 or 4.

    Returns:
        Pairs in the order of their names.

    Raises:
        ImageError: LR or HR holds no image.
        ValueError: there is no LR or HR folder, a photo has no counterpart, or two have the same one.
    """
    check_scale(scale)
    kinds = {"LR": rf"LR(_?X{scale})?", "HR": r"HR|GT"}
    lr, hr = ({source_name(path): path for path in _photos(folder, *kind)} for kind in kinds.items())
    found = {name: Pair(name, lr.pop(name), hr.pop(name)) for name in sorted(lr.keys() & hr.keys())}
    lr_rest = _stripped(lr, rf"(_LR(x?{scale})?|_?x{scale})$")
    hr_rest = _stripped(hr, r"_(HR|GT)$")
    endings = {"HR": "_HR or _GT", "LR": f"_LR, _LR{scale}, _LRx{scale} or _x{scale}"}
    # Names that are not the same yet may differ in their beginnings.
    lr_other = _stripped({name: path for name, path in lr_rest.items() if name not in hr_rest}, _BEGINNING)
    hr_other = _stripped({name: path for name, path in hr_rest.items() if name not in lr_rest}, _BEGINNING)
    for rest, others, missing in ((lr_other, hr_other, "HR"), (hr_other, lr_other, "LR")):
        for name, path in rest.items():
            if name not in others:
                raise ValueError(
                    f"{path} has no counterpart named {name} in the {missing} folder, where {endings[missing]} may "
                    "follow the name, and im_, img_ or image_ precede it"
                )
    same = {name: path for name, path in lr_rest.items() if name in hr_rest}
    for name, path in [*same.items(), *lr_other.items()]:
        if name in found:
            raise ValueError(f"{path} and {found[name].lr} are both the LR photo of {name}")
        found[name] = Pair(name, path, hr_rest[name] if name in same else hr_other[name])
    return [found[name] for name in sorted(found)]


def read_pair(pair: Pair, scale: int, border: str = "clamp") -> Sample:
    """Read both photos of a scene.

    Args:
        pair: the files.
        scale: the factor between LR and HR.
        border: border of the enlargement of LR, see `mrda.degradations.bicubic`.

    Returns:
        LR, its enlargement (from 8 bits, because the file has no more) and HR; no kernel and no noise level is known.

    Raises:
        ImageError: a photo can't be read.
        ValueError: HR is not `scale` times as high and wide as LR.
    """
    lr, hr = (to_tensor(read_rgb(path)) for path in (pair.lr, pair.hr))
    height, width = (scale * side for side in lr.shape[2:])
    if hr.shape[2:] != (height, width):
        raise ValueError(
            f"{pair.hr} is {hr.shape[3]}x{hr.shape[2]} pixels, but must be {width}x{height}, "
            f"{scale} times as wide and high as {pair.lr}"
        )
    lr = quantize(lr)
    return Sample(lr, quantize(bicubic(lr, scale, border)), hr, None, 0.0)


def evaluate_pairs(
    methods: Mapping[str, Method],
    pairs: Iterable[Pair],
    scale: int = 4,
    *,
    border: str = "clamp",
    variant: str = "matlab",
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[Record | RealRecord]:
    """Measure methods, and bicubic upscaling before them, on real pairs.

    For PSNR and SSIM 4 pixels are left out along each border, for LPIPS none.

    Args:
        methods: upscaling methods by name; may be empty. No method gets a blur kernel, because none is known.
        pairs: from `find_pairs`.
        scale: the factor between LR and HR.
        border: border of bicubic upscaling, see `mrda.degradations.bicubic`.
        variant: variant of PSNR and SSIM, see `mrda.evaluation.metrics`; Table IV has MATLAB's.
        lpips: SR and HR (1, 3, sH, sW) in [0, 1], 8-bit values -> (1,), such as an `mrda.evaluation.lpips.LPIPS`; None
            leaves it out.

    Yields:
        For each pair the record of bicubic, then those of the methods; with `lpips` each is a `RealRecord`.

    Raises:
        ImageError: a photo can't be read.
        ValueError: the sizes of a pair don't fit, HR is too small for the SSIM window or for LPIPS, or an SR has NaN
            values or another size than HR.
    """
    methods = {BICUBIC: bicubic_method(scale, border), **methods}
    for pair in pairs:
        sample = read_pair(pair, scale, border)
        if lpips is None:
            yield from _measure(methods, pair, sample, variant)
            continue
        for label, upscale in methods.items():
            sr = upscale(sample).to(sample.hr)
            for record in _measure({label: _giving(sr)}, pair, sample, variant):
                yield RealRecord(*record, lpips=float(lpips(quantize(sr), quantize(sample.hr))))


def _giving(sr: Tensor) -> Method:
    return lambda _: sr


def _measure(methods: Mapping[str, Method], pair: Pair, sample: Sample, variant: str) -> Iterator[Record]:
    return measure(methods, sample, source=pair.hr, image=pair.name, condition=REAL, border=BORDER, variant=variant)


def _photos(folder: str | Path, kind: str, pattern: str) -> list[Path]:
    """List the images of the folder LR or HR, and refuse two that differ in their suffix alone.

    Args:
        folder: the folder above.
        kind: LR or HR.
        pattern: a regular expression of its names in upper case; `kind` itself comes first.
    """
    folders = [Path(entry) for entry in os.scandir(folder) if entry.is_dir()]
    inside = [path for path in folders if path.name.upper() == kind]
    inside = inside or [path for path in folders if re.fullmatch(pattern, path.name.upper())]
    if len(inside) != 1:
        many = "only one of" if inside else "the folder"
        raise ValueError(f"{folder} must hold {many} {kind} or {kind.lower()}, as real pairs lie in LR and HR")
    photos = [Path(source) for source in find_images(inside)]
    names: dict[str, Path] = {}
    for photo in photos:
        if names.setdefault(photo.stem, photo) is not photo:
            raise ImageError(f"{names[photo.stem]} and {photo.name} have the same name, so their partner is not known")
    return photos


def _stripped(photos: Mapping[str, Path], part: str) -> dict[str, Path]:
    """Photos by their names without a part, which is a regular expression in upper or lower case."""
    named: dict[str, Path] = {}
    for stem, path in photos.items():
        name = re.sub(part, "", stem, flags=re.IGNORECASE)
        if name in named:
            raise ValueError(f"{named[name]} and {path.name} are both named {name}, so their partner is not known")
        named[name] = path
    return named
