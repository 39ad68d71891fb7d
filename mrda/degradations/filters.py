# SPDX-License-Identifier: Apache-2.0
"""Filtering of a batch of images, each with a symmetric kernel of its own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda.core.linear_maps import Taps, apply_taps


def filter_images(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter every channel of an image with the image's kernel, the image being reflected at its borders.

    The edge is not repeated; an image smaller than the kernel's reach is reflected repeatedly. Rounding errors are as
    small as those of a direct convolution, which takes several times as long with 21x21 kernels.

    The upper and the lower half of each channel share one Fourier transform, as its real and its imaginary part: the
    spectrum of a symmetric kernel is real, so that they do not mix. On the CPU, taps at the edges that are too small in
    all kernels to change a pixel are left out, and if all images share a separable kernel, they are filtered by its
    column and its row instead.

    Args:
        images: (B, C, H, W) in float32 or float64.
        kernels: (B, k, k), or (1, k, k) for all images; k odd. Each must equal itself rotated by 180 degrees, so that
            correlation and convolution are the same.

    Returns:
        (B, C, H, W).
    """
    if images.device.type == "cpu":  # reading the kernels' values is free here
        last_bit = torch.finfo(images.dtype).eps
        kernels = _trimmed(kernels, 1e-3 * last_bit)
        if kernels.shape[-1] == 1:
            return images * kernels[:, None].to(images)
        if len(kernels) == 1 and _is_product(kernels[0], max(1e-2 * last_bit, 1e-15)):
            return _filter_separately(images, kernels[0])
    return _filter_spectra(images, kernels)


def _trimmed(kernels: Tensor, negligible: float) -> Tensor:
    """Crop all kernels to the same side, so that only negligible taps are cut off."""
    middle = kernels.shape[-1] // 2
    places = (kernels.abs() > negligible).any(dim=0).nonzero() - middle
    reach = int(places.abs().max()) if len(places) else 0
    return kernels[:, middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]


def _is_product(kernel: Tensor, negligible: float) -> bool:
    """Return True if a kernel is the product of its middle column and its middle row, up to a negligible error."""
    middle = len(kernel) // 2
    product = torch.outer(kernel[:, middle], kernel[middle])
    return bool((kernel * kernel[middle, middle] - product).abs().sum() < negligible * kernel[middle, middle])


def _filter_separately(images: Tensor, kernel: Tensor) -> Tensor:
    middle = len(kernel) // 2
    factors = kernel[:, middle].double(), kernel[middle].double() / kernel[middle, middle]
    rows, columns = (_taps(length, factor) for length, factor in zip(images.shape[2:], factors, strict=True))
    return apply_taps(images, rows, columns)


def _taps(length: int, factor: Tensor) -> Taps:
    reach = len(factor) // 2
    sources = _reflected_places(length, reach, reach, factor.device).unfold(0, len(factor), 1)
    return Taps(sources, factor.expand(length, -1))


def _filter_spectra(images: Tensor, kernels: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    reach = kernels.shape[-1] // 2
    half = (height + 1) // 2
    rows, columns = _fast_length(half + 2 * reach), _fast_length(width + 2 * reach)
    # The padding beyond the kernel's reach is not used.
    padded = _reflect(images, reach, half + rows - reach - height, columns - reach - width)
    halves = torch.complex(padded[..., :rows, :], padded[..., half : half + rows, :])
    spectra = torch.fft.fft2(halves)
    values = torch.view_as_real(spectra).view(batch, channels, rows, 2 * columns)
    values.mul_(_spectra(kernels.to(images), rows, columns)[:, None])
    filtered = torch.view_as_real(torch.fft.ifft2(spectra, norm="forward"))
    filtered = filtered[..., reach : reach + half, reach : reach + width, :]
    return torch.cat((filtered[..., 0], filtered[..., : height - half, :, 1]), dim=2)


def _spectra(kernels: Tensor, rows: int, columns: int) -> Tensor:
    """Return the kernels' spectra, divided by rows * columns: (B, rows, 2 * columns), every value twice."""
    cos_y, sin_y = _waves(kernels, rows)
    waves_y = torch.cat((cos_y @ kernels, -(sin_y @ kernels)), dim=2)
    waves_x = torch.cat(_waves(kernels, columns), dim=1).T.repeat_interleave(2, dim=1)
    return waves_y @ (waves_x / (rows * columns))


def _waves(kernels: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every frequency at the positions of a kernel's taps: (length, k) each."""
    size = kernels.shape[-1]
    frequencies = torch.arange(length, dtype=torch.float64, device=kernels.device)
    taps = torch.arange(size, dtype=torch.float64, device=kernels.device) - size // 2
    angles = frequencies[:, None] * taps * (2 * math.pi / length)
    return angles.cos().to(kernels), angles.sin().to(kernels)


def _reflect(images: Tensor, before: int, below: int, right: int) -> Tensor:
    """Pad (B, C, H, W) by reflection: ``before`` pixels above and at the left."""
    height, width = images.shape[2:]
    if max(before, below) < height and max(before, right) < width:
        return F.pad(images, (before, right, before, below), mode="reflect")
    sources = (
        _reflected_places(length, before, after, images.device) for length, after in ((height, below), (width, right))
    )
    return images.index_select(2, next(sources)).index_select(3, next(sources))


def _reflected_places(length: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return the index of the pixel at each position from -before to length + after, by repeated reflection."""
    period = max(1, 2 * (length - 1))
    places = torch.arange(-before, length + after, device=device).remainder(period)
    return torch.minimum(places, period - places).clamp_(max=length - 1)


def _fast_length(least: int) -> int:
    """Return the next length at which Fourier transforms are fast: no prime factor above 7."""
    length = least
    while not _is_smooth(length):
        length += 1
    return length


def _is_smooth(length: int) -> bool:
    for factor in (2, 3, 5, 7):
        while length % factor == 0:
            length //= factor
    return length == 1
