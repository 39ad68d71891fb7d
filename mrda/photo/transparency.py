"""What colour a transparent pixel has, which interpolation and networks let bleed into those around it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fill_transparent(colour: Tensor, alpha: Tensor) -> Tensor:
    """Give fully transparent pixels the colours around them, the nearest ones, so that no others bleed into the image.

    Args:
        colour: (B, C, H, W).
        alpha: (B, 1, H, W) in [0, 1].

    Returns:
        ``colour``, changed only where alpha is 0; there it is 0 if the image is transparent everywhere.
    """
    hidden = alpha == 0
    if not hidden.any():
        return colour
    return torch.where(hidden, _surroundings(colour * alpha, alpha), colour)


def _surroundings(weighted: Tensor, weight: Tensor) -> Tensor:
    """Means of colours at the finest of ever coarser grids at which there are any."""
    mean = weighted / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    if max(weight.shape[2:]) == 1 or not (weight == 0).any():
        return mean
    pooled = [F.avg_pool2d(map, 2, ceil_mode=True) for map in (weighted, weight)]
    coarse = _surroundings(*pooled).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return torch.where(weight == 0, coarse[:, :, : weight.shape[2], : weight.shape[3]], mean)
