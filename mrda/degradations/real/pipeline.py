# SPDX-License-Identifier: Apache-2.0
"""The second-order degradation: draws its parameters, and applies them to a batch step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mrda.core.checks import check_int, check_scale
from mrda.degradations.classic import Degraded, check_batch, check_generator, check_room, crop_to_multiple
from mrda.degradations.filters import filter_images
from mrda.degradations.jpeg import jpeg
from mrda.degradations.quantize import quantize
from mrda.degradations.real.draw import RealDraw, RoundDraw, draw
from mrda.degradations.real.kernels import KernelShapes
from mrda.degradations.real.noise import add_gaussian_noise, add_poisson_noise
from mrda.degradations.real.resize import resize
from mrda.degradations.resample import bicubic
from mrda.degradations.sharpen import sharpen
from mrda.options.classic import CommonOptions
from mrda.options.real import RealOptions


class Step(NamedTuple):
    """The images after one step of the degradation.

    Attributes:
        caption: Description of the step, with the parameters of the first image.
        image: (B, 3, h, w); filtering and resizing change the size, and may exceed [0, 1].
        kernel: (n, k, k) in float64: the step's filter; None if the step does not filter.
    """

    caption: str
    image: Tensor
    kernel: Tensor | None


class _Operation(NamedTuple):
    caption: Callable[[], str]  # made on demand, because reading numbers from the device would slow a training down
    function: Callable[[Tensor], Tensor]
    kernel: Tensor | None = None

    def __call__(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            return self.function(image)


class RealDegradation:
    """Draws the parameters of a second-order degradation at random and applies it.

    With ``common.per`` "image", every image has its own kernels, noise level, gray or coloured noise and JPEG quality,
    as in Real-ESRGAN. The batch still shares the size after each resizing, the kind of noise, the decision to blur
    again and the order of the last steps.

    Args:
        scale: 2, 3 or 4.
        options: Ranges of the parameters; None: the defaults.
        common: Options that every degradation has; None: the defaults.
        patch_size: Side in LR pixels of the patch that is cut out at random at the end, at the same place for the
            whole batch as in Real-ESRGAN; None: keep the whole image.

    Raises:
        TypeError: ``scale`` or ``patch_size`` is not an int.
        ValueError: ``scale`` is not 2, 3 or 4, or ``patch_size`` is below 1.
    """

    def __init__(
        self,
        scale: int = 4,
        options: RealOptions | None = None,
        common: CommonOptions | None = None,
        *,
        patch_size: int | None = 64,
    ) -> None:
        check_scale(scale)
        if patch_size is not None:
            check_int("patch_size", patch_size)
        self.scale = scale
        self.options = options or RealOptions()
        self.common = common or CommonOptions()
        self.patch_size = patch_size

    def __call__(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """Degrade HR (B, 3, H, W) in [0, 1] by parameters and noise from ``generator``, on the device of ``hr``.

        The same seed gives the same batch on the same device. The parameters are drawn first, in an order that no
        option changes, then the noise. The host waits for the device once, to read the parameters that it needs.

        Returns:
            LR and HR (cropped at bottom and right to multiples of ``scale``, then to the patch) in the dtype of ``hr``;
            computed in float32 or better, without gradients. ``kernel`` and ``noise_level`` are None.

        Raises:
            TypeError: ``hr`` is not a floating point tensor, or ``generator`` not a torch.Generator.
            ValueError: ``hr`` has another shape or is too small for the kernels or the patch, or ``generator`` is on
                another device.
        """
        self._check(hr, generator)
        return self.apply(hr, self.draw(len(hr), generator), generator)

    def draw(self, batch: int, generator: torch.Generator) -> RealDraw:
        """Draw the parameters for a batch of so many images, without the noise, on the device of ``generator``."""
        return draw(1 if self.common.per == "batch" else batch, self.options, generator)

    def apply(self, hr: Tensor, draw: RealDraw, generator: torch.Generator) -> Degraded:
        """Degrade HR as `__call__` does, by given parameters: one set for all images, or one per image of ``hr``."""
        self._check(hr, generator)
        if draw.count not in (1, len(hr)):
            raise ValueError(
                f"draw has parameters for {draw.count} images, "
                f"but must have them for one or for {len(hr)}, as many as hr has"
            )
        hr, source = self._source(hr)
        image = source
        for operation in self._operations(hr, draw, generator):
            image = operation(image)
        return self._pair(hr, source, image, draw)

    def steps(self, hr: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Degrade HR as `__call__` does, and yield the images before the first step and after each; the last is LR."""
        self._check(hr, generator)
        draw = self.draw(len(hr), generator)
        hr, source = self._source(hr)
        yield Step("HR", hr, None)
        if self.options.usm:
            yield Step("Unsharp mask", source, None)
        image = source
        for operation in self._operations(hr, draw, generator):
            image = operation(image)
            yield Step(operation.caption(), image, operation.kernel)
        lr = self._pair(hr, source, image, draw).lr
        yield Step(f"LR: {lr.shape[3]}x{lr.shape[2]} in 8 bits", lr, None)

    def _source(self, hr: Tensor) -> tuple[Tensor, Tensor]:
        """Return HR cropped to multiples of the scale, and the image that LR is made from."""
        hr = crop_to_multiple(hr.detach(), self.scale)
        exact = hr if hr.dtype == torch.float64 else hr.float()
        return hr, sharpen(exact) if self.options.usm else exact

    def _operations(self, hr: Tensor, draw: RealDraw, generator: torch.Generator) -> Iterator[_Operation]:
        height, width = hr.shape[2:]
        lr_size = height // self.scale, width // self.scale
        yield _filter("Blur", draw.first.kernel)
        yield _resize(_scaled((height, width), draw.first.factor), draw.first.mode)
        yield _noise(draw.first, generator)
        yield self._jpeg(draw.first)
        if draw.second_blur:
            yield _filter("Blur", draw.second.kernel)
        yield _resize(_scaled(lr_size, draw.second.factor), draw.second.mode)
        yield _noise(draw.second, generator)
        final = (_resize(lr_size, draw.mode), _filter("Last filter", draw.sinc))
        compression = (self._jpeg(draw.second, beyond=draw.sinc_first),)
        for operations in (final, compression) if draw.sinc_first else (compression, final):
            yield from operations

    def _jpeg(self, options: RoundDraw, *, beyond: bool = False) -> _Operation:
        """Compress by JPEG; ``beyond``: the images were filtered last, and may exceed [0, 1]."""
        return _Operation(
            lambda: f"JPEG, quality {float(options.quality[0]):.0f}",
            lambda image: jpeg(image.clamp(0, 1) if beyond else image, options.quality, codec=self.options.jpeg),
        )

    def _pair(self, hr: Tensor, source: Tensor, raw: Tensor, draw: RealDraw) -> Degraded:
        """Cut out the patch, round LR to 8 bits and enlarge it."""
        size = raw.shape[2:] if self.patch_size is None else (self.patch_size, self.patch_size)
        corner = [int(at * (whole - part + 1)) for at, whole, part in zip(draw.place, raw.shape[2:], size, strict=True)]

        def patch(image: Tensor, scale: int) -> Tensor:
            rows, columns = (slice(scale * at, scale * (at + part)) for at, part in zip(corner, size, strict=True))
            return image[:, :, rows, columns].to(hr.dtype).contiguous()

        raw = patch(raw, 1)
        lr = quantize(raw)
        lr_up = quantize(bicubic(raw if self.common.lr_up_from == "raw" else lr, self.scale, self.common.border))
        sharp = patch(source, self.scale) if self.options.usm else None
        return Degraded(lr, lr_up, None, None, patch(hr, self.scale), sharp)

    def _check(self, hr: Tensor, generator: torch.Generator) -> None:
        check_batch(hr)
        check_room(hr, self.options.largest_kernel)
        needed = self.scale * (self.patch_size or 1)
        if min(hr.shape[2:]) < needed:
            raise ValueError(
                f"hr has shape {tuple(hr.shape)}, but must be at least {needed} pixels high and wide for an LR patch "
                f"of {self.patch_size} at scale {self.scale}"
            )
        check_generator(generator, hr)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    height, width = (max(1, int(length * factor)) for length in size)
    return height, width


def _filter(name: str, shapes: KernelShapes) -> _Operation:
    kernels = shapes.kernels()
    return _Operation(
        lambda: f"{name}: {shapes.describe()}",
        lambda image: filter_images(image, kernels),
        kernels,
    )


def _resize(size: tuple[int, int], mode: str) -> _Operation:
    """Resize to a size.

    Real-ESRGAN's first resizing passes the factor instead, which cuts off the last fraction of a pixel; with the size,
    LR stays aligned with HR.
    """
    return _Operation(lambda: f"Resize to {size[1]}x{size[0]}, {mode}", lambda image: resize(image, size, mode))


def _noise(options: RoundDraw, generator: torch.Generator) -> _Operation:
    add = add_gaussian_noise if options.gaussian else add_poisson_noise

    def caption() -> str:
        level = float(options.level[0])
        words = f"Gaussian noise, sigma {level:.1f}" if options.gaussian else f"Poisson noise, scale {level:.2f}"
        return f"{words}, gray" if options.gray[0] else words

    return _Operation(caption, lambda image: add(image, options.level, options.gray, generator))
