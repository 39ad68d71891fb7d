# SPDX-License-Identifier: Apache-2.0
"""Resizing without antialiasing: in the degradation of real photos, aliasing is intended."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda.core.linear_maps import Taps, apply_taps

MODES = ("area", "bilinear", "bicubic")


def resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize as ``torch.nn.functional.interpolate(images, size, mode=mode)`` does; faster on the CPU.

    Args:
        images: (B, C, H, W) in float32 or float64.
        size: Height and width of the result.
        mode: One of `MODES`; "bicubic" has a = -0.75 and overshoots.

    Returns:
        (B, C, *size); ``images`` itself if it has that size.
    """
    if images.shape[2:] == size:
        return images
    if images.device.type != "cpu" or mode == "bilinear":
        return F.interpolate(images, size=size, mode=mode)
    rows, columns = (_taps(old, new, mode) for old, new in zip(images.shape[2:], size, strict=True))
    return apply_taps(images, rows, columns)


def _taps(old: int, new: int, mode: str) -> Taps:
    if mode == "area":
        outputs = torch.arange(new)
        starts = outputs * old // new
        stops = ((outputs + 1) * old + new - 1) // new
        sources = starts[:, None] + torch.arange(-(-old // new) + 1)
        weights = (sources < stops[:, None]) / (stops - starts)[:, None].double()
    else:
        places = (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new) - 0.5
        nearest = places.floor()
        after = places - nearest
        weights = torch.stack((_far(1 + after), _near(after), _near(1 - after), _far(2 - after)), dim=1)
        sources = nearest.long()[:, None] + torch.arange(-1, 3)
    return Taps(sources.clamp(0, old - 1), weights)


def _near(distance: Tensor) -> Tensor:
    """Keys' cubic with a = -0.75, at distances up to 1."""
    return (1.25 * distance - 2.25) * distance**2 + 1


def _far(distance: Tensor) -> Tensor:
    """Keys' cubic with a = -0.75, at distances from 1 to 2."""
    return ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
