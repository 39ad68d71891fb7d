# SPDX-License-Identifier: Apache-2.0
"""Linear maps along rows and columns in which every output depends on few inputs: resampling and separable filters.

They are computed as products with blocks of their banded matrices. On a CPU, torch's own resizing takes up to three
times as long, and its convolutions with long filters even longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 16  # outputs per product: few enough for a nearly banded matrix, enough for an efficient GEMM


class Taps(NamedTuple):
    """Inputs and weights of n outputs along an axis.

    Attributes:
        sources: (n, t) int64: indices of the inputs.
        weights: (n, t) float64: weights of the inputs.
    """

    sources: Tensor
    weights: Tensor


class Block(NamedTuple):
    """Consecutive outputs along an axis, as a matrix (outputs, stop - start) that maps the inputs start..stop."""

    start: int
    stop: int
    weights: Tensor


def apply_taps(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Map (B, C, H, W) to (B, C, H', W'): every column by ``rows``, with H' outputs, then every row by ``columns``."""
    return apply_blocks(images, *(blocks(taps, _BLOCK, images.dtype) for taps in (rows, columns)))


def apply_blocks(images: Tensor, rows: Iterable[Block], columns: Iterable[Block]) -> Tensor:
    """Map (B, C, H, W) as :func:`apply_taps` does, given the results of :func:`blocks`."""
    parts = [torch.matmul(weights, images[..., start:stop, :]) for start, stop, weights in rows]
    images = torch.cat(parts, dim=2)
    parts = [torch.matmul(images[..., start:stop], weights.T) for start, stop, weights in columns]
    return torch.cat(parts, dim=3)


def blocks(taps: Taps, outputs: int, dtype: torch.dtype) -> list[Block]:
    """Split a map into blocks of ``outputs`` outputs each."""
    sources, weights = taps
    count = len(sources)
    missing = -count % outputs
    if missing:
        sources = torch.cat((sources, sources[-1:].expand(missing, -1)))
        weights = torch.cat((weights, weights[-1:].expand(missing, -1)))
    sources = sources.view(-1, outputs, sources.shape[1])
    starts, stops = sources.amin(dim=(1, 2)), sources.amax(dim=(1, 2)) + 1
    widest = int((stops - starts).max())
    matrices = torch.zeros(*sources.shape[:2], widest, dtype=torch.float64)
    matrices.scatter_add_(2, sources - starts[:, None, None], weights.view(sources.shape))
    matrices = matrices.to(dtype)
    return [
        Block(start, stop, matrix[: count - index * outputs, : stop - start])
        for index, (start, stop, matrix) in enumerate(zip(starts.tolist(), stops.tolist(), matrices, strict=True))
    ]
