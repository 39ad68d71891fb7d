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
from mrda.data.pairs import Pair, check_sizes, match_pairs
from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import bicubic_method
from mrda.evaluation.protocols import BICUBIC, Record, measure
from mrda.evaluation.samples import Method, Sample
from mrda.options.evaluation import DIV2KRK, REAL
from mrda.photo.images import Source, find_images, read_rgb, to_tensor

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


def find_pairs(folder: str | Path, scale: int) -> list[Pair]:
    """List the pairs of a data set, see `mrda.data.pairs.match_pairs`.

    Args:
        folder: holds the folders LR (or LR_x4, with the scale for 4) and HR (or GT), in upper or lower case; further
            ones, such as DIV2KRK's of kernels, are left alone.
        scale: the factor between LR and HR; 2, 3 or 4.

    Returns:
        Pairs in the order of their names.

    Raises:
        ImageError: LR or HR holds no image.
        ValueError: there is no LR or HR folder, a photo has no counterpart, or two have the same one.
    """
    check_scale(scale)
    kinds = {"LR": rf"LR(_?X{scale})?", "HR": r"HR|GT"}
    lr, hr = (_photos(folder, *kind) for kind in kinds.items())
    return match_pairs(lr, hr, scale)


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
    lr_pixels, hr_pixels = (read_rgb(path) for path in (pair.lr, pair.hr))
    check_sizes(pair, lr_pixels.shape, hr_pixels.shape, scale)
    lr, hr = to_tensor(lr_pixels), to_tensor(hr_pixels)
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
    protocol: str = REAL,
) -> Iterator[Record | RealRecord]:
    """Measure methods, and bicubic upscaling before them, on real pairs.

    For PSNR and SSIM 4 pixels are left out along each border, or `scale` pixels for `div2krk`; for LPIPS none.

    Args:
        methods: upscaling methods by name; may be empty. No method gets a blur kernel, because none is known.
        pairs: from `find_pairs`.
        scale: the factor between LR and HR.
        border: border of bicubic upscaling, see `mrda.degradations.bicubic`.
        variant: variant of PSNR and SSIM, see `mrda.evaluation.metrics`; Table IV has MATLAB's.
        lpips: SR and HR (1, 3, sH, sW) in [0, 1], 8-bit values -> (1,), such as an `mrda.evaluation.lpips.LPIPS`; None
            leaves it out.
        protocol: `real` or `div2krk`, which is also the condition's name.

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
            yield from _measure(methods, pair, sample, variant, protocol, scale)
            continue
        for label, upscale in methods.items():
            sr = upscale(sample).to(sample.hr)
            for record in _measure({label: _giving(sr)}, pair, sample, variant, protocol, scale):
                yield RealRecord(*record, lpips=float(lpips(quantize(sr), quantize(sample.hr))))


def _giving(sr: Tensor) -> Method:
    return lambda _: sr


def _measure(
    methods: Mapping[str, Method], pair: Pair, sample: Sample, variant: str, protocol: str, scale: int
) -> Iterator[Record]:
    border = scale if protocol == DIV2KRK else BORDER
    return measure(methods, sample, source=pair.hr, image=pair.name, condition=protocol, border=border, variant=variant)


def _photos(folder: str | Path, kind: str, pattern: str) -> list[Source]:
    """List the images of the folder LR or HR.

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
    return find_images(inside)
