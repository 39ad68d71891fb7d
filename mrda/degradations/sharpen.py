# SPDX-License-Identifier: Apache-2.0
"""Unsharp masking, by which Real-ESRGAN sharpens HR before it makes LR from it."""

from __future__ import annotations

import torch
from torch import Tensor

from mrda.core.checks import check_image
from mrda.degradations.filters import filter_images

_SIZE, _SIGMA = 51, 8.0  # OpenCV's width for a Gaussian of that size
_WEIGHT = 0.5
_THRESHOLD = 10 / 255


@torch.no_grad()
def sharpen(images: Tensor) -> Tensor:
    """Sharpen images: add half of the difference to a wide Gaussian blur, where it exceeds 10 levels, and around there.

    Images are reflected at their borders. No gradient is computed.

    Args:
        images: (B, 3, H, W) in [0, 1], of any size.

    Returns:
        (B, 3, H, W) in [0, 1], in the dtype of ``images``, computed in float32 or better.

    Raises:
        TypeError: ``images`` is not a floating point tensor.
        ValueError: ``images`` has another shape.
    """
    check_image("images", images)
    with torch.autocast(images.device.type, enabled=False):
        exact = images if images.dtype == torch.float64 else images.float()
        axis = torch.arange(_SIZE, dtype=torch.float64, device=images.device) - _SIZE // 2
        gaussian = torch.exp(-0.5 * (axis / _SIGMA) ** 2)
        kernel = (gaussian[:, None] * gaussian / gaussian.sum() ** 2)[None]
        details = exact - filter_images(exact, kernel)
        share = filter_images((details.abs() > _THRESHOLD).to(exact), kernel)
        sharp = (exact + _WEIGHT * details).clamp_(0, 1)
        return torch.lerp(exact, sharp, share.clamp_(0, 1)).to(images.dtype)
