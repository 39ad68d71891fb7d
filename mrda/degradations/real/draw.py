# SPDX-License-Identifier: Apache-2.0
"""Parameters of the second-order degradation, drawn before any image is touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mrda.degradations.real.kernels import FINAL_DRAWS, KERNEL_DRAWS, KernelShapes, between, draw_final, draw_kernels
from mrda.degradations.real.resize import MODES
from mrda.options.real import RealOptions, RoundOptions

_HOST_DRAWS = 5
"""Random numbers of a round that the host reads."""
_DEVICE_DRAWS = KERNEL_DRAWS + 2
"""Random numbers of a round that stay on the device."""


@dataclass(frozen=True)
class RoundDraw:
    """Parameters of one round: shared by all images (n = 1), or one set per image (n = B).

    Attributes:
        kernel: n kernels.
        factor: Resize factor, for all images.
        mode: Resize mode, one of `MODES`.
        gaussian: True for Gaussian noise, False for Poisson noise.
        level: (n,): standard deviation in units of 1/255, or scale of the Poisson noise.
        gray: n flags: True if the noise is the same in all channels.
        quality: (n,): quality of JPEG.
    """

    kernel: KernelShapes
    factor: float
    mode: str
    gaussian: bool
    level: Tensor
    gray: tuple[bool, ...]
    quality: Tensor


@dataclass(frozen=True)
class RealDraw:
    """Parameters of a second-order degradation: shared by all images (n = 1), or one set per image (n = B).

    Attributes:
        first: Parameters of the first round.
        second: Parameters of the second round.
        second_blur: True if the second round blurs.
        sinc: n final sinc filters.
        sinc_first: True if the final resizing and the sinc filter come before the last JPEG, False if after it.
        mode: Mode of the final resizing.
        place: Vertical and horizontal place of the crop, from 0 (top, left) to below 1.
    """

    first: RoundDraw
    second: RoundDraw
    second_blur: bool
    sinc: KernelShapes
    sinc_first: bool
    mode: str
    place: tuple[float, float]

    @property
    def count(self) -> int:
        """The number n of parameter sets."""
        return len(self.first.gray)


def draw(count: int, options: RealOptions, generator: torch.Generator) -> RealDraw:
    """Draw ``count`` sets of parameters.

    All random numbers are drawn in one call, and their number does not depend on the options. The host reads those
    that decide which operations run; it waits for the device once.
    """
    host_rows = 2 * _HOST_DRAWS + 5
    device_rows = 2 * _DEVICE_DRAWS + FINAL_DRAWS
    shape = (host_rows + device_rows, count)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    host, device = iter(uniform[:host_rows].tolist()), iter(uniform[host_rows:].unbind())
    first, second = (_draw_round(round_options, host, device) for round_options in (options.first, options.second))
    (second_blur, *_), (order, *_), (mode, *_), (top, *_), (left, *_) = host
    return RealDraw(
        first=first,
        second=second,
        second_blur=second_blur < options.second_blur_prob,
        sinc=draw_final(options.final_sinc_prob, list(device)),
        sinc_first=order < 0.5,
        mode=_pick_mode(mode),
        place=(top, left),
    )


def _draw_round(options: RoundOptions, host: Iterator[list[float]], device: Iterator[Tensor]) -> RoundDraw:
    """Turn `_HOST_DRAWS` and `_DEVICE_DRAWS` rows of n numbers in [0, 1) into the parameters of a round."""
    (direction, *_), (factor, *_), (mode, *_), (kind, *_), gray = (next(host) for _ in range(_HOST_DRAWS))
    *shape, level, quality = (next(device) for _ in range(_DEVICE_DRAWS))
    gaussian = kind < options.gaussian_noise_prob
    return RoundDraw(
        kernel=draw_kernels(options, shape),
        factor=_factor(options, direction, factor),
        mode=_pick_mode(mode),
        gaussian=gaussian,
        level=between(options.noise_range if gaussian else options.poisson_scale_range, level),
        gray=tuple(number < options.gray_noise_prob for number in gray),
        quality=between(options.jpeg_range, quality),
    )


def _factor(options: RoundOptions, direction: float, uniform: float) -> float:
    up, down, keep = options.resize_prob
    smallest, largest = options.resize_range
    direction *= up + down + keep
    if direction < up:
        return 1 + (largest - 1) * uniform
    if direction < up + down:
        return smallest + (1 - smallest) * uniform
    return 1.0


def _pick_mode(uniform: float) -> str:
    return MODES[int(uniform * len(MODES))]
