"""What the second-order degradation draws before it touches an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mrda.degradations.real_kernels import FINAL_DRAWS, KernelOptions, KernelShapes, between, final_shapes
from mrda.degradations.resize import MODES


@dataclass(frozen=True)
class RoundOptions:
    """What one of the two rounds is drawn from, under the names of Real-ESRGAN's option files."""

    kernels: KernelOptions
    resize_prob: tuple[float, float, float]
    resize_range: tuple[float, float]
    gaussian_noise_prob: float
    noise_range: tuple[float, float]
    poisson_scale_range: tuple[float, float]
    gray_noise_prob: float
    jpeg_range: tuple[float, float]

    HOST_DRAWS: ClassVar[int] = 5
    DRAWS: ClassVar[int] = KernelOptions.DRAWS + 2

    def draw(self, host: Iterator[list[float]], device: Iterator[Tensor]) -> RoundDraw:
        """Take `HOST_DRAWS` and `DRAWS` rows of n numbers in [0, 1), and make the round's parameters of them."""
        (direction, *_), (factor, *_), (mode, *_), (kind, *_), gray = (next(host) for _ in range(self.HOST_DRAWS))
        *shape, level, quality = (next(device) for _ in range(self.DRAWS))
        gaussian = kind < self.gaussian_noise_prob
        return RoundDraw(
            kernel=self.kernels.shapes(shape),
            factor=self._factor(direction, factor),
            mode=pick_mode(mode),
            gaussian=gaussian,
            level=between(self.noise_range if gaussian else self.poisson_scale_range, level),
            gray=tuple(number < self.gray_noise_prob for number in gray),
            quality=between(self.jpeg_range, quality),
        )

    def _factor(self, direction: float, uniform: float) -> float:
        up, down, keep = self.resize_prob
        direction *= up + down + keep
        if direction < up:
            return 1 + (self.resize_range[1] - 1) * uniform
        if direction < up + down:
            return self.resize_range[0] + (1 - self.resize_range[0]) * uniform
        return 1.0


@dataclass(frozen=True)
class RoundDraw:
    """Parameters of one round: of all images (n = 1), or of each its own (n = B).

    Attributes:
        kernel: Of n kernels.
        factor: Of the size, for all images.
        mode: One of `MODES`.
        gaussian: Whether the noise is Gaussian, or else Poisson noise.
        level: (n,): standard deviation in units of 1/255, or scale.
        gray: n times whether the noise is the same in all channels.
        quality: (n,): of JPEG.
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
    """Parameters of a second-order degradation: of all images (n = 1), or of each its own (n = B).

    Attributes:
        first: Of the first round.
        second: Of the second.
        second_blur: Whether the second round blurs.
        sinc: Of n final sinc filters.
        sinc_first: Whether the final resizing and the sinc filter come before the last JPEG, or after it.
        mode: Of the final resizing.
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
        """The number n of parameters of a kind."""
        return len(self.first.gray)


def draw(
    count: int,
    first: RoundOptions,
    second: RoundOptions,
    second_blur_prob: float,
    final_sinc_prob: float,
    generator: torch.Generator,
) -> RealDraw:
    """Draw the parameters of ``count`` images, or of all images with a count of 1.

    All random numbers come in one tensor, and as many whatever the options are. Those that decide what is done, and not
    just how strongly, are read by the host: that waits for the device, once.
    """
    host_rows = 2 * RoundOptions.HOST_DRAWS + 5
    device_rows = 2 * RoundOptions.DRAWS + FINAL_DRAWS
    shape = (host_rows + device_rows, count)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    host, device = iter(uniform[:host_rows].tolist()), iter(uniform[host_rows:].unbind())
    first_draw, second_draw = first.draw(host, device), second.draw(host, device)
    (second_blur, *_), (order, *_), (mode, *_), (top, *_), (left, *_) = host
    return RealDraw(
        first=first_draw,
        second=second_draw,
        second_blur=second_blur < second_blur_prob,
        sinc=final_shapes(final_sinc_prob, list(device)),
        sinc_first=order < 0.5,
        mode=pick_mode(mode),
        place=(top, left),
    )


def pick_mode(uniform: float) -> str:
    """One of `MODES`."""
    return MODES[int(uniform * len(MODES))]
