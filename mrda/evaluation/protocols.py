"""Test protocols: photographs degraded in agreed ways, upscaled and measured against the originals."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from mrda.checks import check_choice, check_scale
from mrda.degradations.classic import crop_to_multiple, degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.degradations.resample import bicubic
from mrda.evaluation.metrics import psnr_y, ssim_y
from mrda.images import Source, read_rgb, source_name, to_tensor

Method = Callable[[torch.Tensor], torch.Tensor]
"""LR (1, 3, H, W) in [0, 1] -> SR (1, 3, scale H, scale W)."""

GAUSSIAN8_RANGE = {2: (0.80, 1.60), 3: (1.35, 2.40), 4: (1.80, 3.20)}
"""The narrowest and the widest of Gaussian8's blurs by scale: standard deviations in HR pixels."""

PROTOCOLS = ("gaussian8", "bicubic")
BICUBIC = "bicubic"


class Condition(NamedTuple):
    """One fixed degradation: a blur, then bicubic downsampling; no noise."""

    name: str
    kernel: torch.Tensor | None
    """(21, 21), or None for no blur."""


class Record(NamedTuple):
    """One measurement: PSNR in dB and SSIM, both on Y."""

    image: str
    condition: str
    method: str
    psnr_y: float
    ssim_y: float


def isotropic_conditions(sigmas: Iterable[float]) -> list[Condition]:
    """Isotropic Gaussian blurs of the given widths (standard deviations in HR pixels)."""
    return [Condition(f"sigma={sigma:.4g}", isotropic_gaussian(sigma)) for sigma in sigmas]


def conditions(protocol: str, scale: int) -> list[Condition]:
    """The degradations of a protocol.

    Args:
        protocol: `gaussian8`, eight isotropic blurs evenly spaced (Section IV-B; the test set of IKC), or
            `bicubic`, downsampling alone.
        scale: 2, 3 or 4.

    Raises:
        TypeError: the scale is not an int.
        ValueError: no such protocol, or no such scale in it.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    check_scale(scale)
    if protocol == BICUBIC:
        return [Condition(BICUBIC, None)]
    narrowest, widest = GAUSSIAN8_RANGE[scale]
    return isotropic_conditions(narrowest + i * (widest - narrowest) / 7 for i in range(8))


def evaluate(
    method: Method | None,
    images: Iterable[Source],
    protocol: str | Sequence[Condition] = "gaussian8",
    scale: int = 4,
    *,
    name: str = "mrda_s",
) -> Iterator[Record]:
    """Measure a method, and bicubic upscaling beside it, image by image and condition by condition.

    The HR image is cropped to multiples of `scale` and degraded; the method sees the 8-bit LR image alone. SR
    is rounded to 8 bits and `scale` pixels are left out along each border.

    Args:
        method: what upscales; None measures bicubic alone.
        images: the HR photographs.
        protocol: the name of a protocol, or conditions of one's own.
        scale: the factor between LR and HR.
        name: what to call the method in the records.

    Yields:
        For each image and condition the record of bicubic, then that of the method.

    Raises:
        ImageError: an image can't be read.
        ValueError: no such protocol, an image too small for the blur kernel or the SSIM window, or an SR with NaN.
    """
    degradations = conditions(protocol, scale) if isinstance(protocol, str) else protocol
    methods: dict[str, Method] = {BICUBIC: lambda lr: bicubic(lr, scale)}
    if method is not None:
        methods[name] = method
    for source in images:
        hr = crop_to_multiple(to_tensor(read_rgb(source)), scale)
        for condition in degradations:
            lr = degrade(hr, condition.kernel, scale).lr
            for label, upscale in methods.items():
                sr = upscale(lr)
                psnr, ssim = float(psnr_y(sr, hr, scale)), float(ssim_y(sr, hr, scale))
                if math.isnan(psnr) or math.isnan(ssim):
                    raise ValueError(f"{source}: the SR of {label} under {condition.name} has NaN values")
                yield Record(source_name(source), condition.name, label, psnr, ssim)
