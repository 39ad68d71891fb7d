# SPDX-License-Identifier: Apache-2.0
"""The classic degradation: blur, bicubic downsampling, noise, 8 bits (paper, Eq. 1 and section IV-A)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda.core.checks import (
    check_choice,
    check_image,
    check_number,
    check_scale,
    check_tensor,
)
from mrda.degradations.kernels import gaussian_kernels
from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.options.classic import BORDERS, DOWNSAMPLES, LR_UP_FROM, SIGMA_RANGES, ClassicOptions


class Degraded(NamedTuple):
    """A degraded batch, with the parameters of its degradation where they are known.

    Attributes:
        lr: (B, 3, H/scale, W/scale) in [0, 1], 8-bit values.
        lr_up: (B, 3, H, W) in [0, 1], 8-bit values: LR, before or after its rounding, enlarged by bicubic
            interpolation.
        kernel: (B, k, k), or (1, k, k) if all images share one; None if nothing was blurred, or more than once.
        noise_level: (B,), or (1,) if all images share one: standard deviation, in units of 1/255; None if the noise
            was not Gaussian alone.
        hr: (B, 3, H, W) in [0, 1]: the HR image that LR was made from, or a patch of it.
        hr_sharp: The same patch of the sharpened HR that LR was made from; None if nothing was sharpened.
        other_lr: LR of another image by the same degradation, which the MLN is adapted to; None: to the image itself.
        other_lr_up: Its enlargement.
        other_hr: Its HR.
    """

    lr: Tensor
    lr_up: Tensor
    kernel: Tensor | None
    noise_level: Tensor | None
    hr: Tensor
    hr_sharp: Tensor | None = None
    other_lr: Tensor | None = None
    other_lr_up: Tensor | None = None
    other_hr: Tensor | None = None


def crop_to_multiple(hr: Tensor, scale: int) -> Tensor:
    """Return HR (B, C, H, W) cropped at bottom and right to multiples of ``scale``.

    Raises:
        TypeError: ``hr`` is not a floating point tensor.
        ValueError: ``hr`` has another shape or is smaller than ``scale``, or ``scale`` is not 2, 3 or 4.
    """
    check_scale(scale)
    check_image("hr", hr, channels=None)
    height, width = hr.shape[2:]
    if min(height, width) < scale:
        raise ValueError(f"hr is {height}x{width}, but must be at least {scale} pixels high and wide at scale {scale}")
    return hr[..., : height - height % scale, : width - width % scale]


def degrade(
    hr: Tensor,
    kernel: Tensor | None,
    scale: int,
    *,
    noise_level: float | Tensor = 0.0,
    generator: torch.Generator | None = None,
    downsample: str = "bicubic",
    border: str = "clamp",
    lr_up_from: str = "raw",
) -> Degraded:
    """Degrade HR by given parameters: blur, downsample, add noise, round LR and its enlargement to 8 bits.

    Args:
        hr: (B, 3, H, W) in [0, 1], H and W multiples of ``scale``.
        kernel: (k, k) or (1, k, k) for all images, (B, k, k) for one per image, k odd, applied as a
            correlation on the image reflected at its borders (edge not repeated), after rounding to the dtype of
            ``hr``; finite, on the device of ``hr``. None: no blur.
        scale: 2, 3 or 4.
        noise_level: Standard deviation of the Gaussian colour noise, in units of 1/255: a number or a tensor
            (1,) or (B,).
        generator: Source of the noise, on the device of ``hr``; required if there is noise.
        downsample: See :class:`ClassicOptions`.
        border: See :class:`ClassicOptions`.
        lr_up_from: See :class:`ClassicOptions`; "quantised" is right for a photo that is given as LR.

    Raises:
        TypeError: ``hr`` or ``kernel`` is not a floating point tensor, ``noise_level`` neither a number nor a tensor,
            or there is noise and no generator.
        ValueError: A shape, a size, a device or an option is not as described, or HR is too small for the
            kernel's reflected border.
    """
    check_scale(scale)
    check_choice("downsample", downsample, DOWNSAMPLES)
    check_choice("border", border, BORDERS)
    check_choice("lr_up_from", lr_up_from, LR_UP_FROM)
    _check_hr(hr, scale)
    kernels = None if kernel is None else _check_kernel(kernel, hr)
    levels = _check_noise_level(noise_level, hr)
    noisy = bool(levels.any())
    if noisy:
        check_generator(generator, hr)
    return _degrade(hr, kernels, scale, levels, generator if noisy else None, downsample, border, lr_up_from)


class ClassicDegradation:
    """Draws the parameters of a classic degradation at random and applies it.

    Args:
        scale: 2, 3 or 4.
        options: Ranges of the parameters; None: the defaults.

    Raises:
        TypeError: ``scale`` is not an int.
        ValueError: ``scale`` is not 2, 3 or 4.
    """

    def __init__(self, scale: int = 4, options: ClassicOptions | None = None) -> None:
        check_scale(scale)
        self.scale = scale
        self.options = options or ClassicOptions()
        self.sigma_range = self.options.sigma_range or SIGMA_RANGES[scale]

    def __call__(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """Degrade HR (B, 3, H, W) in [0, 1] by parameters drawn from ``generator``, on the device of ``hr``.

        Parameters are drawn in a fixed order (widths, angle, noise level), then the noise: the same seed
        gives the same batch. All images are processed together, and nothing that is drawn is read back, so that a GPU
        is never waited for.

        Raises:
            TypeError: ``hr`` is not a floating point tensor, or ``generator`` not a torch.Generator.
            ValueError: ``hr`` has another shape, a side that is not a multiple of the scale, or a side too small
                for the kernel; or ``generator`` is on another device.
        """
        _check_hr(hr, self.scale)
        check_generator(generator, hr)
        options = self.options
        count = hr.shape[0] if options.per == "image" else 1
        kernels = self._draw_kernels(count, generator)
        levels = _uniform(count, options.noise_range, generator).to(hr)
        if kernels is not None:
            check_room(hr, options.kernel_size)
            kernels = kernels.to(hr)
        return self._degrade_by(hr, kernels, levels, generator)

    def with_others(self, pair: Degraded, generator: torch.Generator) -> Degraded:
        """Return a batch with another image for each of its own: its neighbour's HR, degraded by the same parameters.

        The noise is drawn anew. A batch of one image has no other than itself.
        """
        assert pair.noise_level is not None
        other = self._degrade_by(pair.hr.roll(1, dims=0), pair.kernel, pair.noise_level, generator)
        return pair._replace(other_lr=other.lr, other_lr_up=other.lr_up, other_hr=other.hr)

    def _degrade_by(self, hr: Tensor, kernels: Tensor | None, levels: Tensor, generator: torch.Generator) -> Degraded:
        options = self.options
        source = generator if options.noise_range[1] > 0 else None
        resampling = options.downsample, options.border, options.lr_up_from
        return _degrade(hr, kernels, self.scale, levels, source, *resampling)

    def _draw_kernels(self, count: int, generator: torch.Generator) -> Tensor | None:
        options = self.options
        if options.kernel == "none":
            return None
        l1 = _uniform(count, self.sigma_range, generator)
        if options.kernel == "isotropic":
            return gaussian_kernels(l1, l1, torch.zeros_like(l1), options.kernel_size)
        l2 = _uniform(count, self.sigma_range, generator)
        theta = _uniform(count, options.theta_range, generator)
        if options.aniso_param == "eigen":
            l1, l2 = l1.sqrt(), l2.sqrt()
        return gaussian_kernels(l1, l2, theta, options.kernel_size)


def _degrade(
    hr: Tensor,
    kernels: Tensor | None,
    scale: int,
    levels: Tensor,
    generator: torch.Generator | None,
    downsample: str,
    border: str,
    lr_up_from: str,
) -> Degraded:
    """Degrade by arguments that have been checked, without reading the tensors' values; no generator: no noise."""
    blurred = hr if kernels is None else _blur(hr, kernels)
    if downsample == "bicubic":
        lr = bicubic(blurred, 1 / scale, border)
    else:
        lr = blurred[..., ::scale, ::scale]
    if generator is not None:
        noise = torch.randn(lr.shape, generator=generator, device=lr.device, dtype=lr.dtype)
        lr = lr + levels[:, None, None, None] / 255 * noise
    rounded = quantize(lr)
    lr_up = quantize(bicubic(lr if lr_up_from == "raw" else rounded, scale, border))
    return Degraded(rounded, lr_up, kernels, levels, hr)


def _uniform(count: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    low, high = bounds
    draw = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
    return low + (high - low) * draw


def _blur(hr: Tensor, kernels: Tensor) -> Tensor:
    """Correlate every channel of ``hr`` with its image's kernel, the image being reflected at its borders."""
    batch, channels, height, width = hr.shape
    reach = kernels.shape[-1] // 2
    with torch.autocast(hr.device.type, enabled=False):
        planes = F.pad(hr, (reach,) * 4, mode="reflect").reshape(1, batch * channels, height + 2 * reach, -1)
        weight = kernels[:, None, None].expand(batch, channels, 1, -1, -1)
        weight = weight.reshape(batch * channels, 1, *kernels.shape[1:])
        return F.conv2d(planes, weight, groups=batch * channels).reshape(batch, channels, height, width)


def _check_hr(hr: Tensor, scale: int) -> None:
    check_batch(hr)
    if hr.shape[2] % scale or hr.shape[3] % scale:
        raise ValueError(
            f"hr has shape {tuple(hr.shape)}, but height and width must be divisible by {scale} (see crop_to_multiple)"
        )


def check_batch(hr: Tensor) -> None:
    """Raise unless ``hr`` is a floating point batch (B, 3, H, W) of at least one image."""
    check_image("hr", hr)
    if len(hr) == 0:
        raise ValueError(f"hr has shape {tuple(hr.shape)}, but must hold at least one image")


def check_room(hr: Tensor, size: int) -> None:
    """Raise unless ``hr`` is large enough to be reflected at its borders for a ``size`` x ``size`` kernel."""
    smallest = size // 2 + 1
    if min(hr.shape[2:]) < smallest:
        raise ValueError(
            f"hr has shape {tuple(hr.shape)}, but must be at least {smallest} pixels high and wide "
            f"for a {size}x{size} kernel"
        )


def _check_kernel(kernel: Tensor, hr: Tensor) -> Tensor:
    """Return ``kernel`` as (1 or B, k, k) in the dtype and on the device of ``hr``."""
    check_tensor("kernel", kernel)
    if kernel.device != hr.device:
        raise ValueError(f"kernel is on {kernel.device}, but must be on {hr.device} as hr is")
    kernels = kernel[None] if kernel.dim() == 2 else kernel
    size = kernels.shape[-1]
    if kernels.dim() != 3 or kernels.shape[1] != size or size % 2 == 0 or kernels.shape[0] not in (1, len(hr)):
        raise ValueError(f"kernel has shape {tuple(kernel.shape)}, but must be (k, k) or ({len(hr)}, k, k) with k odd")
    if not kernels.isfinite().all():
        raise ValueError("kernel has NaN or infinite values, but must be finite")
    check_room(hr, size)
    return kernels.to(hr)


def check_generator(generator: torch.Generator | None, hr: Tensor) -> None:
    """Raise unless ``generator`` can draw random numbers on the device of ``hr``."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator is {generator!r}, but must be a torch.Generator for random numbers")
    if generator.device.type != hr.device.type:
        raise ValueError(f"generator is on {generator.device}, but must be on {hr.device} as hr is")


def _check_noise_level(noise_level: float | Tensor, hr: Tensor) -> Tensor:
    """Return ``noise_level`` as (1,) or (B,) in the dtype and on the device of ``hr``."""
    if not isinstance(noise_level, Tensor):
        check_number("noise_level", noise_level)
    levels = torch.as_tensor(noise_level, dtype=hr.dtype, device=hr.device)
    levels = levels[None] if levels.dim() == 0 else levels
    if levels.shape not in ((1,), (len(hr),)):
        raise ValueError(f"noise_level has shape {tuple(levels.shape)}, but must be (1,) or ({len(hr)},), or a number")
    if not (torch.isfinite(levels) & (levels >= 0)).all():
        raise ValueError(f"noise_level is {noise_level}, but must be finite and at least 0")
    return levels
