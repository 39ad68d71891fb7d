# SPDX-License-Identifier: Apache-2.0
"""Test protocols: fixed degradations of photographs, and scores of upscaled results against the originals."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mrda.core.checks import check_choice, check_scale
from mrda.degradations.classic import crop_to_multiple
from mrda.degradations.kernels import anisotropic_gaussian, isotropic_gaussian
from mrda.evaluation.methods import bicubic_method
from mrda.evaluation.metrics import psnr_y, ssim_y
from mrda.evaluation.samples import Condition, Method, Sample, make_sample
from mrda.options.evaluation import PROTOCOLS
from mrda.photo.images import Source, read_rgb, to_tensor
from mrda.photo.names import distinct_names

GAUSSIAN8_RANGE = {2: (0.80, 1.60), 3: (1.35, 2.40), 4: (1.80, 3.20)}
"""The narrowest and the widest of Gaussian8's blurs by scale: standard deviations in HR pixels."""

NINE_KERNELS = {
    "mrda9": (
        *((4.0, 1.0, 0), (3.5, 1.5, 20), (3.0, 2.0, 40), (2.5, 2.5, 0), (3.0, 2.0, 0)),
        *((3.5, 1.5, 20), (4.0, 1.0, 40), (3.5, 2.5, 60), (4.0, 4.0, 0)),
    ),
    "dasr9": (
        *((2.0, 0.2, 0), (2.0, 1.0, 10), (3.5, 1.5, 30), (3.5, 2.0, 45), (3.5, 2.0, 90)),
        *((4.0, 1.5, 120), (4.0, 2.0, 135), (4.0, 3.0, 165), (4.0, 4.0, 180)),
    ),
}
"""Anisotropic blurs: standard deviations l1 and l2 in HR pixels, angle in degrees. Those of Table III are inferred from
its thumbnails, not published."""

WIDE_SIGMAS = (0.2, 1.15, 2.1, 3.05, 4.0)
"""The blurs of `wide`, at any scale: standard deviations in HR pixels, evenly spaced over the training range of x4."""

NOISE_LEVELS = {"mrda9": (0.0, 10.0, 20.0), "dasr9": (0.0, 5.0, 10.0), "wide": (0.0, 12.5, 25.0)}
"""Standard deviations of the noise, in units of 1/255."""

BLURS = {
    **{protocol: tuple(f"k{number}" for number in range(1, 10)) for protocol in NINE_KERNELS},
    "wide": tuple(f"sigma={sigma:g}" for sigma in WIDE_SIGMAS),
}
"""Names of the blurs of the protocols with noise levels."""

DASR_ISO = "dasr-iso"
DASR_ISO_SIGMAS = {2: (0.0, 0.6, 1.2, 1.8), 3: (0.0, 0.8, 1.6, 2.4), 4: (0.0, 1.2, 2.4, 3.6)}
"""The blurs of DASR's Table 2 by scale: standard deviations in HR pixels; 0 is downsampling alone."""

BICUBIC = "bicubic"


class Record(NamedTuple):
    """One measurement: PSNR in dB and SSIM, both on Y."""

    image: str
    condition: str
    method: str
    psnr_y: float
    ssim_y: float


def isotropic_conditions(sigmas: Iterable[float]) -> list[Condition]:
    """Isotropic Gaussian blurs of the given widths (standard deviations in HR pixels); a width of 0 is no blur."""
    return [Condition(f"sigma={sigma:.4g}", isotropic_gaussian(sigma) if sigma else None) for sigma in sigmas]


def anisotropic_condition(name: str, kernel: tuple[float, float, float], noise_level: float) -> Condition:
    """A rotated Gaussian blur, (l1, l2, degrees) as in `NINE_KERNELS`, and noise in units of 1/255."""
    l1, l2, degrees = kernel
    return Condition(name, anisotropic_gaussian(l1, l2, math.radians(degrees)), noise_level)


def noisy_name(blur: str, noise_level: float) -> str:
    """The condition of a blur by its name in `BLURS`, at a noise level in units of 1/255."""
    return f"{blur} noise={noise_level:g}"


def conditions(protocol: str, scale: int, *, noise_levels: Collection[float] | None = None) -> list[Condition]:
    """The degradations of a protocol.

    Args:
        protocol: `gaussian8`, eight isotropic blurs evenly spaced (Section IV-B; the test set of IKC); `mrda9`, the
            nine anisotropic blurs of Table III at three noise levels; `dasr9`, those of DASR at its own; `dasr-iso`,
            the four isotropic blurs of DASR's Table 2; `wide`, five isotropic blurs from 0.2 to 4.0 at three noise
            levels from 0 to 25; or `bicubic`, downsampling alone.
        scale: 2, 3 or 4. The blurs of `mrda9`, `dasr9` and `wide` are those of x4 at any scale.
        noise_levels: the noise levels of `mrda9`, `dasr9` or `wide` to keep; None keeps all.

    Raises:
        TypeError: the scale is not an int.
        ValueError: no such protocol, or no such scale or noise level in it.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    check_scale(scale)
    levels: tuple[float, ...] = NOISE_LEVELS.get(protocol, ())
    if noise_levels is not None:
        if not levels:
            raise ValueError(f"noise is {list(noise_levels)}, but the protocol {protocol} has no noise levels")
        for level in noise_levels:
            if level not in levels:
                choices = ", ".join(f"{known:g}" for known in levels)
                raise ValueError(f"noise is {level:g}, but the protocol {protocol} has the levels {choices}")
        levels = tuple(level for level in levels if level in noise_levels)
    if protocol == BICUBIC:
        return [Condition(BICUBIC, None)]
    if protocol == "gaussian8":
        narrowest, widest = GAUSSIAN8_RANGE[scale]
        return isotropic_conditions(narrowest + i * (widest - narrowest) / 7 for i in range(8))
    if protocol == DASR_ISO:
        return isotropic_conditions(DASR_ISO_SIGMAS[scale])
    if protocol == "wide":
        return [
            Condition(noisy_name(blur, level), isotropic_gaussian(sigma), level)
            for level in levels
            for blur, sigma in zip(BLURS[protocol], WIDE_SIGMAS, strict=True)
        ]
    return [
        anisotropic_condition(noisy_name(blur, level), kernel, level)
        for level in levels
        for blur, kernel in zip(BLURS[protocol], NINE_KERNELS[protocol], strict=True)
    ]


def measure(
    methods: Mapping[str, Method],
    sample: Sample,
    *,
    source: Source,
    image: str,
    condition: str,
    border: int,
    variant: str,
) -> Iterator[Record]:
    """Measure methods on one sample.

    Args:
        methods: the methods by name.
        sample: the degraded photograph and its original.
        source: the photograph's file, for messages.
        image: the photograph's name.
        condition: the degradation's name.
        border: pixels to leave out along each border of HR.
        variant: see `mrda.evaluation.metrics`.

    Yields:
        The record of each method.

    Raises:
        ValueError: HR is too small for the SSIM window, or an SR has NaN values or another size than HR.
    """
    hr = sample.hr
    for label, upscale in methods.items():
        sr = upscale(sample).to(hr)
        if sr.shape != hr.shape:
            raise ValueError(
                f"{source}: the SR of {label} has shape {tuple(sr.shape)}, but must have that of HR, {tuple(hr.shape)}"
            )
        psnr, ssim = float(psnr_y(sr, hr, border, variant)), float(ssim_y(sr, hr, border, variant))
        if math.isnan(psnr) or math.isnan(ssim):
            raise ValueError(f"{source}: the SR of {label} under {condition} has NaN values")
        yield Record(image, condition, label, psnr, ssim)


def evaluate(
    methods: Mapping[str, Method],
    images: Iterable[Source],
    protocol: str | Sequence[Condition] = "gaussian8",
    scale: int = 4,
    *,
    seed: int = 0,
    downsample: str = "bicubic",
    border: str = "clamp",
    lr_up_from: str = "raw",
    variant: str = "released",
    names: Mapping[Source, str] | None = None,
) -> Iterator[Record]:
    """Measure methods, and bicubic upscaling before them, image by image and condition by condition.

    The HR image is cropped to multiples of `scale` and degraded. SR is rounded to 8 bits and `scale` pixels are left
    out along each border.

    Args:
        methods: the methods by name; may be empty.
        images: the HR photographs.
        protocol: the name of a protocol, or conditions of one's own.
        scale: the factor between LR and HR.
        seed: seed of the noise, see `mrda.evaluation.samples.make_sample`.
        downsample: see `mrda.degradations.degrade`.
        border: see `mrda.degradations.degrade`; bicubic upscaling follows it too.
        lr_up_from: see `mrda.degradations.degrade`.
        variant: variant of the metrics, see `mrda.evaluation.metrics`.
        names: names of the photographs in the records; None names them so that no two are the same.

    Yields:
        For each image and condition the record of bicubic, then those of the methods.

    Raises:
        ImageError: an image can't be read.
        ValueError: no such protocol, an image too small for the blur kernel or the SSIM window, or an SR with NaN
            values or of another size than HR.
    """
    degradations = conditions(protocol, scale) if isinstance(protocol, str) else protocol
    methods = {BICUBIC: bicubic_method(scale, border), **methods}
    images = list(images)
    names = dict(zip(images, distinct_names(images), strict=True)) if names is None else names
    for source in images:
        hr = crop_to_multiple(to_tensor(read_rgb(source)), scale)
        name = names[source]
        for condition in degradations:
            sample = make_sample(
                hr,
                condition,
                scale,
                image=name,
                seed=seed,
                downsample=downsample,
                border=border,
                lr_up_from=lr_up_from,
            )
            yield from measure(
                methods,
                sample,
                source=source,
                image=name,
                condition=condition.name,
                border=scale,
                variant=variant,
            )
