# SPDX-License-Identifier: Apache-2.0
"""Colours of transparent pixels, which interpolation and networks would spread to the pixels around them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fill_transparent(colour: Tensor, alpha: Tensor) -> Tensor:
    """Replace the colours of fully transparent pixels by the nearest visible ones.

    Interpolation and networks then do not spread hidden colours into visible pixels.

    Args:
        colour: (B, C, H, W).
        alpha: (B, 1, H, W) in [0, 1].

    Returns:
        ``colour``, changed only where alpha is 0; an image that is transparent everywhere becomes 0.
    """
    hidden = alpha == 0
    if not hidden.any():
        return colour
    return torch.where(hidden, _surroundings(colour * alpha, alpha), colour)


def _surroundings(weighted: Tensor, weight: Tensor) -> Tensor:
    """Average colours on ever coarser grids, until each cell has visible pixels."""
    mean = weighted / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    if max(weight.shape[2:]) == 1 or not (weight == 0).any():
        return mean
    pooled = [F.avg_pool2d(map, 2, ceil_mode=True) for map in (weighted, weight)]
    coarse = _surroundings(*pooled).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return torch.where(weight == 0, coarse[:, :, : weight.shape[2], : weight.shape[3]], mean)
