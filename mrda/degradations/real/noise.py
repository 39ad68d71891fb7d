# SPDX-License-Identifier: Apache-2.0
"""Gaussian and Poisson noise, in colour or gray, as Real-ESRGAN adds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mrda.degradations.real.poisson import poisson

_LUMA = (0.2989, 0.587, 0.114)
_STRIDE = 3  # step between the pixels that are counted first


def add_gaussian_noise(images: Tensor, sigma: Tensor, gray: Sequence[bool], generator: torch.Generator) -> Tensor:
    """Add Gaussian noise and clip to [0, 1].

    Args:
        images: (B, 3, H, W).
        sigma: (B,), or (1,) for all images: standard deviation, in units of 1/255.
        gray: As many flags: True if an image's noise is the same in all channels.
        generator: On the device of ``images``.
    """

    def noise(chosen: Tensor, channels: int) -> Tensor:
        shape = (len(chosen), channels, *chosen.shape[2:])
        return torch.randn(shape, generator=generator, dtype=chosen.dtype, device=chosen.device)

    return _add(images, sigma / 255, _by_colour(images, gray, noise))


def add_poisson_noise(images: Tensor, scale: Tensor, gray: Sequence[bool], generator: torch.Generator) -> Tensor:
    """Add Poisson noise times ``scale``, and clip to [0, 1].

    An image, or its luma for gray noise, is rounded to 8 bits. The number of its different values, rounded up to a
    power of two N, is taken as the number of photons of white: the noise is Poisson(N * image) / N - image.

    Args:
        images: (B, 3, H, W).
        scale: (B,), or (1,) for all images: factor of the noise.
        gray: See `add_gaussian_noise`.
        generator: On the device of ``images``.
    """

    def noise(chosen: Tensor, channels: int) -> Tensor:
        if channels == 1:
            red, green, blue = chosen.split(1, dim=1)
            chosen = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
        levels = (255 * chosen).round_().clamp_(0, 255)
        peaks = photons(levels).to(levels)
        return poisson(levels, peaks, generator).div_(peaks[:, None, None, None]).sub_(levels.div_(255))

    return _add(images, scale, _by_colour(images, gray, noise))


def photons(levels: Tensor) -> Tensor:
    """Return the number of different values of each image, rounded up to a power of two.

    Args:
        levels: (B, C, H, W), integers from 0 to 255 as floating point numbers.

    Returns:
        (B,) int64, from 1 to 256.
    """
    if levels.device.type == "cpu":  # reading the values is free here
        count = _values(levels[..., ::_STRIDE, ::_STRIDE])
        if (count > 128).all():  # as in most photos: the other pixels cannot change the result
            return torch.full_like(count, 256)
    count = _values(levels)
    # Counting smaller powers is exact; the logarithm is not on every device.
    return 1 << sum((count > 2**power).long() for power in range(8))


def _values(levels: Tensor) -> Tensor:
    """Return the number of different values in each image, (B,)."""
    places = levels.flatten(1).long().clamp_(0, 255)
    seen = torch.zeros(len(levels), 256, dtype=torch.bool, device=levels.device).scatter_(1, places, True)
    return seen.sum(dim=1)


def _by_colour(images: Tensor, gray: Sequence[bool], noise: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return the noise of the coloured and of the gray images, (B, 3, H, W), or (B, 1, H, W) if all are gray."""
    flags = list(gray) * (len(images) if len(gray) == 1 else 1)
    if all(flags) or not any(flags):
        return noise(images, 1 if flags[0] else 3)
    parts = {
        flag: iter(noise(torch.cat([images[i : i + 1] for i, other in enumerate(flags) if other == flag]), channels))
        for flag, channels in ((False, 3), (True, 1))
    }
    return torch.stack([next(parts[flag]).expand(3, -1, -1) for flag in flags])


def _add(images: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    """Add noise times the images' strengths, (B,) or (1,), and clip to [0, 1]."""
    return torch.addcmul(images, noise, strength.to(images)[:, None, None, None]).clamp_(0, 1)
