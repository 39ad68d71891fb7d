# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM on luma, in the variants that make published numbers comparable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda.core.checks import check_choice, check_int, check_pair
from mrda.degradations.quantize import quantize

_WINDOW = 11
_WINDOW_SIGMA = 1.5

# Luma weights of (R, G, B) in [0, 1], as fractions of the peak. The released code divides the same weights by
# 256 for PSNR and by 255 for SSIM; MATLAB's rgb2ycbcr has its own.
_RELEASED = (65.738, 129.057, 25.064)
_MATLAB = (65.481, 128.553, 24.966)
_PSNR_LUMA = {"released": (_RELEASED, 256), "matlab": (_MATLAB, 255)}
_SSIM_LUMA = {"released": (_RELEASED, 255), "matlab": (_MATLAB, 255)}


def psnr_y(sr: Tensor, hr: Tensor, border: int, variant: str = "released") -> Tensor:
    """Return the peak signal-to-noise ratio of luma, in dB, for each image of a batch.

    Both images are rounded to 8 bits first, then ``border`` pixels are cut off each side. The peak is 1 (255
    in 8-bit values).

    Args:
        sr: Result (B, 3, H, W) in [0, 1].
        hr: Ground truth, of the same shape and range.
        border: Pixels to leave out on each side; the scale, by custom.
        variant: Luma weights: "released" (65.738, 129.057, 25.064)/256, or "matlab" (65.481, 128.553,
            24.966)/255.

    Returns:
        (B,) in float64; infinite where the images are equal.

    Raises:
        TypeError: An image is not a floating point tensor, or ``border`` is not an int.
        ValueError: The images differ in shape or device or are not (B, 3, H, W), nothing is left within the
            border, or ``variant`` is unknown.
    """
    check_choice("variant", variant, _PSNR_LUMA)
    sr, hr = _prepare(sr, hr, border, smallest=1)
    difference = _luma(sr - hr, *_PSNR_LUMA[variant])
    return -10 * torch.log10(difference.square().mean(dim=(1, 2, 3)))


def ssim_y(sr: Tensor, hr: Tensor, border: int, variant: str = "released") -> Tensor:
    """Return the structural similarity of luma for each image of a batch.

    Both images are rounded to 8 bits first, then ``border`` pixels are cut off each side. The Gaussian window
    is 11x11 with sigma 1.5, on the positions where it fits; constants are (0.01*255)^2 and (0.03*255)^2,
    moments are weighted means, without the sample correction.

    Args:
        sr: Result (B, 3, H, W) in [0, 1].
        hr: Ground truth, of the same shape and range.
        border: Pixels to leave out on each side; the scale, by custom.
        variant: Luma weights: "released" (65.738, 129.057, 25.064)/255 + 16, not /256 as in :func:`psnr_y`,
            or "matlab" (65.481, 128.553, 24.966)/255 + 16; up to 7e-4 apart where we measured (docs/method.md).

    Returns:
        (B,) in float64; 1 where the images are equal.

    Raises:
        TypeError: An image is not a floating point tensor, or ``border`` is not an int.
        ValueError: The images differ in shape or device or are not (B, 3, H, W), less than the window is left
            within the border, or ``variant`` is unknown.
    """
    check_choice("variant", variant, _SSIM_LUMA)
    sr, hr = _prepare(sr, hr, border, smallest=_WINDOW)
    x, y = (_luma(255 * image, *_SSIM_LUMA[variant]) + 16 for image in (sr, hr))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (_window_mean(z) for z in (x, y, x * x, y * y, x * y))
    variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return similarity.mean(dim=(1, 2, 3))


def _prepare(sr: Tensor, hr: Tensor, border: int, *, smallest: int) -> tuple[Tensor, Tensor]:
    """Check both images, round them to 8 bits and cut the border off; float64."""
    check_pair(sr, hr)
    check_int("border", border, minimum=0)
    if sr.device != hr.device:
        raise ValueError(f"sr is on {sr.device}, but must be on {hr.device} as hr is")
    height, width = hr.shape[2:]
    if min(height, width) - 2 * border < smallest:
        raise ValueError(
            f"border is {border}, but must leave {smallest} or more pixels per side of a {height}x{width} image"
        )
    inner = (..., slice(border, height - border), slice(border, width - border))
    return quantize(sr[inner].double()), quantize(hr[inner].double())


def _luma(rgb: Tensor, weights: tuple[float, float, float], divisor: int) -> Tensor:
    """Return the weighted sum of the channels, (B, 1, H, W), without offset."""
    return torch.einsum("bchw,c->bhw", rgb, rgb.new_tensor(weights) / divisor).unsqueeze(1)


def _window_mean(z: Tensor) -> Tensor:
    """Mean under the Gaussian window wherever it fits in (B, 1, H, W)."""
    offsets = torch.arange(_WINDOW, dtype=z.dtype, device=z.device) - _WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _WINDOW_SIGMA) ** 2)
    window = window / window.sum()
    return F.conv2d(F.conv2d(z, window.reshape(1, 1, -1, 1)), window.reshape(1, 1, 1, -1))
