"""Linear maps along rows and columns whose every output has few inputs: resizing and separable filters, on the CPU.

They are done as products with blocks of their matrices, which are bands. Torch's own resizing takes up to three times
as long, and its convolutions with long filters even more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 16  # outputs per product: few enough for little more than the band, enough for a good GEMM


class Taps(NamedTuple):
    """The inputs of each of n outputs along an axis.

    Attributes:
        sources: (n, t) int64: their places.
        weights: (n, t) float64.
    """

    sources: Tensor
    weights: Tensor


def apply_taps(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Map (B, C, H, W) to (B, C, H', W'): every column by ``rows``, of H' outputs, then every row by ``columns``."""
    parts = [torch.matmul(matrix, images[..., start:stop, :]) for start, stop, matrix in _blocks(rows, images)]
    images = torch.cat(parts, dim=2)
    parts = [torch.matmul(images[..., start:stop], matrix.T) for start, stop, matrix in _blocks(columns, images)]
    return torch.cat(parts, dim=3)


def _blocks(taps: Taps, like: Tensor) -> list[tuple[int, int, Tensor]]:
    """Cut a map into blocks of outputs: a matrix (outputs, stop - start) over the inputs from start to stop."""
    sources, weights = taps
    count = len(sources)
    missing = -count % _BLOCK
    if missing:
        sources = torch.cat((sources, sources[-1:].expand(missing, -1)))
        weights = torch.cat((weights, weights[-1:].expand(missing, -1)))
    sources = sources.view(-1, _BLOCK, sources.shape[1])
    starts, stops = sources.amin(dim=(1, 2)), sources.amax(dim=(1, 2)) + 1
    widest = int((stops - starts).max())
    matrices = torch.zeros(*sources.shape[:2], widest, dtype=torch.float64)
    matrices.scatter_add_(2, sources - starts[:, None, None], weights.view(sources.shape))
    matrices = matrices.to(like.dtype)
    return [
        (start, stop, matrix[: count - index * _BLOCK, : stop - start])
        for index, (start, stop, matrix) in enumerate(zip(starts.tolist(), stops.tolist(), matrices, strict=True))
    ]
