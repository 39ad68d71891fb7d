# SPDX-License-Identifier: Apache-2.0
"""Lanczos resampling band by band, so that the image need not be in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from mrda.core.linear_maps import Block, Taps, apply_blocks, blocks
from mrda.photo.images import ImageArray

_LOBES = 3
_ROWS, _COLUMNS = 64, 16  # rows per band of the larger of both images, columns per product


def resampled(image: ImageArray, target: tuple[int, int]) -> ImageArray:
    """Return a whole image (H, W) or (H, W, C), uint8 or uint16, resampled to a height and width by `resample`."""
    return np.concatenate(list(resample([image], image.shape[:2], target)))


def resample(bands: Iterable[ImageArray], size: tuple[int, int], target: tuple[int, int]) -> Iterator[ImageArray]:
    """Resample an image by the Lanczos kernel with three lobes, widened for downsampling, as Pillow does.

    Args:
        bands: the image from top to bottom, (n, W) or (n, W, C) each, uint8 or uint16.
        size: its height and width.
        target: height and width of the result.

    Yields:
        The result from top to bottom, each band as soon as the rows that it depends on are there.
    """
    columns = blocks(_taps(size[1], target[1]), _COLUMNS, torch.float32)
    outputs = max(1, _ROWS * min(size[0], target[0]) // size[0])
    stream = iter(bands)
    held, first = next(stream), 0  # rows, and the number of the first of them
    for start, stop, weights in blocks(_taps(size[0], target[0]), outputs, torch.float32):
        parts = [held[start - first :]]
        first = start
        while first + sum(map(len, parts)) < stop:
            parts.append(next(stream))
        held = np.concatenate(parts)
        seen = np.atleast_3d(held[: stop - start]).astype(np.float32)
        planes = torch.from_numpy(seen).permute(2, 0, 1)[None]
        levels = apply_blocks(planes, [Block(0, stop - start, weights)], columns)[0]
        levels = levels.round().clamp(0, np.iinfo(held.dtype).max)
        band = levels.permute(1, 2, 0).numpy().astype(held.dtype, order="C")
        yield band if held.ndim == 3 else band[..., 0]


def _taps(old: int, new: int) -> Taps:
    """Compute the taps of one axis; outputs near the border have fewer, because there is nothing beyond it."""
    ratio = old / new
    widening = max(1.0, ratio)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * ratio - 0.5
    reach = _LOBES * widening
    sources = torch.ceil(centres - reach).long()[:, None] + torch.arange(int(2 * reach) + 1)
    distances = (sources - centres[:, None]) / widening
    weights = torch.sinc(distances) * torch.sinc(distances / _LOBES) * (distances.abs() < _LOBES)
    weights = weights * ((sources >= 0) & (sources < old))
    return Taps(sources.clamp(0, old - 1), weights / weights.sum(dim=1, keepdim=True))
