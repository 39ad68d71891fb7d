"""The degradation of real photos: Real-ESRGAN's second-order pipeline (ICCVW 2021), on a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrda.core.checks import check_choice, check_image, check_int, check_scale
from mrda.degradations.classic import LR_UP_FROM, Degraded, check_generator, check_room, crop_to_multiple
from mrda.degradations.filters import filter_images
from mrda.degradations.jpeg import CODECS, jpeg
from mrda.degradations.quantize import quantize
from mrda.degradations.real_draw import RealDraw, RoundDraw, draw
from mrda.degradations.real_kernels import FAMILIES, KernelShapes
from mrda.degradations.real_noise import add_gaussian_noise, add_poisson_noise
from mrda.degradations.real_options import check_probability, round_options
from mrda.degradations.resample import BORDERS, bicubic
from mrda.degradations.resize import resize
from mrda.degradations.sharpen import sharpen

_FAMILY_PROB = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


class Step(NamedTuple):
    """What an image is after a step.

    Attributes:
        caption: What was done; where images have parameters of their own, to the first one.
        image: (B, 3, h, w), of the step's own size; may leave [0, 1] where it was filtered or resized.
        kernel: (n, k, k) in float64, of the step's filter; None of others.
    """

    caption: str
    image: Tensor
    kernel: Tensor | None


class _Operation(NamedTuple):
    caption: Callable[[], str]  # asking the device for numbers would hold up a training
    function: Callable[[Tensor], Tensor]
    kernel: Tensor | None = None

    def __call__(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            return self.function(image)


class RealDegradation:
    """Draws a second-order degradation at random and applies it.

    Twice blur, resize, noise and JPEG; in the second round, the last resizing to LR's size and a sinc filter come
    either before JPEG or after it. Options have the names and values of Real-ESRGAN's option files; those that end in 2
    are of the second round.

    Args:
        scale: 2, 3 or 4.
        kernel_list: Kernels' families, of `mrda.degradations.real_kernels.FAMILIES`.
        kernel_prob: A probability for each, or a weight: they need not add up to 1.
        blur_kernel_size: Odd side of the largest kernel, at least 7; one of 7, 9, ... up to it is drawn.
        sinc_prob: Probability of a sinc filter in the kernel's place.
        blur_sigma: Range of kernels' widths in pixels, of each axis for anisotropic ones; above 0.
        betag_range: Range of generalised kernels' exponent; half of the draws fall on either side of 1.
        betap_range: Range of plateau-shaped kernels' exponent, likewise.
        resize_prob: Probabilities, or weights, of enlarging, shrinking and keeping the size.
        resize_range: The smallest and the largest factor of the size, of HR or in the second round of LR; above 0.
        gaussian_noise_prob: Probability of Gaussian noise; else it is Poisson noise.
        noise_range: Range of the Gaussian noise's standard deviation, in units of 1/255.
        poisson_scale_range: Range of the factor of Poisson noise.
        gray_noise_prob: Probability of the same noise in all channels.
        jpeg_range: Range of JPEG's quality, within 1 and 100.
        second_blur_prob: Probability of the second blur.
        kernel_list2: As ``kernel_list``, and so on.
        kernel_prob2: See there.
        blur_kernel_size2: See there.
        sinc_prob2: See there.
        blur_sigma2: See there.
        betag_range2: See there.
        betap_range2: See there.
        resize_prob2: See there.
        resize_range2: See there.
        gaussian_noise_prob2: See there.
        noise_range2: See there.
        poisson_scale_range2: See there.
        gray_noise_prob2: See there.
        jpeg_range2: See there.
        final_sinc_prob: Probability of the last sinc filter.
        jpeg: "libjpeg" or "simulated", see :func:`mrda.degradations.jpeg.jpeg`.
        usm: Whether LR is made from sharpened HR, see :func:`mrda.degradations.sharpen.sharpen`.
        per: One draw of all parameters for the whole "batch", as adaptation of the MLN needs it. Or for each "image"
            its own kernels, noise level, gray or coloured noise and JPEG quality, as Real-ESRGAN does; whether and how
            the batch is resized, the kind of noise, whether it is blurred again and the order at the end remain one.
        patch_size: Side in LR pixels of the patch that is cut out at random at the end, at one place for the whole
            batch as Real-ESRGAN does; None keeps it whole.
        border: Of the enlargement of LR, see :func:`mrda.degradations.resample.bicubic`.
        lr_up_from: What is enlarged: LR before its rounding to 8 bits ("raw") or after ("quantised").

    Raises:
        TypeError: An option has a wrong type.
        ValueError: An option is none of those listed, or a number not as described.
    """

    def __init__(
        self,
        scale: int = 4,
        *,
        kernel_list: Sequence[str] = FAMILIES,
        kernel_prob: Sequence[float] = _FAMILY_PROB,
        blur_kernel_size: int = 21,
        sinc_prob: float = 0.1,
        blur_sigma: tuple[float, float] = (0.2, 3.0),
        betag_range: tuple[float, float] = (0.5, 4.0),
        betap_range: tuple[float, float] = (1.0, 2.0),
        resize_prob: Sequence[float] = (0.2, 0.7, 0.1),
        resize_range: tuple[float, float] = (0.15, 1.5),
        gaussian_noise_prob: float = 0.5,
        noise_range: tuple[float, float] = (1.0, 30.0),
        poisson_scale_range: tuple[float, float] = (0.05, 3.0),
        gray_noise_prob: float = 0.4,
        jpeg_range: tuple[float, float] = (30.0, 95.0),
        second_blur_prob: float = 0.8,
        kernel_list2: Sequence[str] = FAMILIES,
        kernel_prob2: Sequence[float] = _FAMILY_PROB,
        blur_kernel_size2: int = 21,
        sinc_prob2: float = 0.1,
        blur_sigma2: tuple[float, float] = (0.2, 1.5),
        betag_range2: tuple[float, float] = (0.5, 4.0),
        betap_range2: tuple[float, float] = (1.0, 2.0),
        resize_prob2: Sequence[float] = (0.3, 0.4, 0.3),
        resize_range2: tuple[float, float] = (0.3, 1.2),
        gaussian_noise_prob2: float = 0.5,
        noise_range2: tuple[float, float] = (1.0, 25.0),
        poisson_scale_range2: tuple[float, float] = (0.05, 2.5),
        gray_noise_prob2: float = 0.4,
        jpeg_range2: tuple[float, float] = (30.0, 95.0),
        final_sinc_prob: float = 0.8,
        jpeg: str = "libjpeg",
        usm: bool = False,
        per: str = "batch",
        patch_size: int | None = 64,
        border: str = "clamp",
        lr_up_from: str = "raw",
    ) -> None:
        check_scale(scale)
        check_choice("jpeg", jpeg, CODECS)
        check_choice("per", per, ("batch", "image"))
        check_choice("border", border, BORDERS)
        check_choice("lr_up_from", lr_up_from, LR_UP_FROM)
        if patch_size is not None:
            check_int("patch_size", patch_size)
        self.scale = scale
        self.first = round_options(
            "",
            kernel_list=kernel_list,
            kernel_prob=kernel_prob,
            blur_kernel_size=blur_kernel_size,
            sinc_prob=sinc_prob,
            blur_sigma=blur_sigma,
            betag_range=betag_range,
            betap_range=betap_range,
            resize_prob=resize_prob,
            resize_range=resize_range,
            gaussian_noise_prob=gaussian_noise_prob,
            noise_range=noise_range,
            poisson_scale_range=poisson_scale_range,
            gray_noise_prob=gray_noise_prob,
            jpeg_range=jpeg_range,
        )
        self.second = round_options(
            "2",
            kernel_list=kernel_list2,
            kernel_prob=kernel_prob2,
            blur_kernel_size=blur_kernel_size2,
            sinc_prob=sinc_prob2,
            blur_sigma=blur_sigma2,
            betag_range=betag_range2,
            betap_range=betap_range2,
            resize_prob=resize_prob2,
            resize_range=resize_range2,
            gaussian_noise_prob=gaussian_noise_prob2,
            noise_range=noise_range2,
            poisson_scale_range=poisson_scale_range2,
            gray_noise_prob=gray_noise_prob2,
            jpeg_range=jpeg_range2,
        )
        self.second_blur_prob = check_probability("second_blur_prob", second_blur_prob)
        self.final_sinc_prob = check_probability("final_sinc_prob", final_sinc_prob)
        self.jpeg = jpeg
        self.usm = usm
        self.per = per
        self.patch_size = patch_size
        self.border = border
        self.lr_up_from = lr_up_from

    def __call__(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """Degrade HR (B, 3, H, W) in [0, 1] by parameters and noise from ``generator``, on the device of ``hr``.

        The same seed gives the same batch on the same device. The parameters come first, in an order that no option
        changes, then the noise. The host waits for the device once, for what it has to know of the parameters.

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
        """Draw the parameters of a batch, without the noise, on the device of ``generator``."""
        return draw(
            *(1 if self.per == "batch" else batch, self.first, self.second),
            *(self.second_blur_prob, self.final_sinc_prob, generator),
        )

    def apply(self, hr: Tensor, draw: RealDraw, generator: torch.Generator) -> Degraded:
        """Degrade HR as `__call__` does, by given parameters: of all images, or of as many as ``hr`` has."""
        self._check(hr, generator)
        if draw.count not in (1, len(hr)):
            raise ValueError(f"draw is of {draw.count} images, but must be of one or of {len(hr)} as hr has")
        hr, source = self._source(hr)
        image = source
        for operation in self._operations(hr, draw, generator):
            image = operation(image)
        return self._pair(hr, source, image, draw)

    def steps(self, hr: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Do what `__call__` does, and show the images before the first step and after each; the last one is LR."""
        self._check(hr, generator)
        draw = self.draw(len(hr), generator)
        hr, source = self._source(hr)
        yield Step("HR", hr, None)
        if self.usm:
            yield Step("Unsharp mask", source, None)
        image = source
        for operation in self._operations(hr, draw, generator):
            image = operation(image)
            yield Step(operation.caption(), image, operation.kernel)
        lr = self._pair(hr, source, image, draw).lr
        yield Step(f"LR: {lr.shape[3]}x{lr.shape[2]} in 8 bits", lr, None)

    def _source(self, hr: Tensor) -> tuple[Tensor, Tensor]:
        """HR in whole multiples of the scale, and what LR is made from."""
        hr = crop_to_multiple(hr.detach(), self.scale)
        exact = hr if hr.dtype == torch.float64 else hr.float()
        return hr, sharpen(exact) if self.usm else exact

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
        """Compress; what noise was added to has been clipped, but a filter may go ``beyond`` [0, 1]."""
        return _Operation(
            lambda: f"JPEG, quality {float(options.quality[0]):.0f}",
            lambda image: jpeg(image.clamp(0, 1) if beyond else image, options.quality, codec=self.jpeg),
        )

    def _pair(self, hr: Tensor, source: Tensor, raw: Tensor, draw: RealDraw) -> Degraded:
        """Cut out the patch and round it."""
        size = raw.shape[2:] if self.patch_size is None else (self.patch_size, self.patch_size)
        corner = [int(at * (whole - part + 1)) for at, whole, part in zip(draw.place, raw.shape[2:], size, strict=True)]

        def patch(image: Tensor, scale: int) -> Tensor:
            rows, columns = (slice(scale * at, scale * (at + part)) for at, part in zip(corner, size, strict=True))
            return image[:, :, rows, columns].to(hr.dtype).contiguous()

        raw = patch(raw, 1)
        lr = quantize(raw)
        lr_up = quantize(bicubic(raw if self.lr_up_from == "raw" else lr, self.scale, self.border))
        sharp = patch(source, self.scale) if self.usm else None
        return Degraded(lr, lr_up, None, None, patch(hr, self.scale), sharp)

    def _check(self, hr: Tensor, generator: torch.Generator) -> None:
        check_image("hr", hr)
        if len(hr) == 0:
            raise ValueError(f"hr has shape {tuple(hr.shape)}, but must hold at least one image")
        check_room(hr, max(options.kernels.blur_kernel_size for options in (self.first, self.second)))
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

    Real-ESRGAN's first resizing goes by the factor, which cuts off the fraction of a pixel that is left at the end;
    going by the size, LR stays aligned with HR.
    """
    return _Operation(lambda: f"Resize to {size[1]}x{size[0]}, {mode}", lambda image: resize(image, size, mode))


def _noise(options: RoundDraw, generator: torch.Generator) -> _Operation:
    add = add_gaussian_noise if options.gaussian else add_poisson_noise

    def caption() -> str:
        level = float(options.level[0])
        words = f"Gaussian noise, sigma {level:.1f}" if options.gaussian else f"Poisson noise, scale {level:.2f}"
        return f"{words}, gray" if options.gray[0] else words

    return _Operation(caption, lambda image: add(image, options.level, options.gray, generator))
