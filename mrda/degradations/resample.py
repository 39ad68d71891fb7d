# SPDX-License-Identifier: Apache-2.0
"""Bicubic resampling with antialiasing, as MATLAB's imresize and the released code do it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from mrda.core.checks import check_choice, check_image, check_positive
from mrda.core.linear_maps import Block, Taps, apply_blocks, blocks
from mrda.options.classic import BORDERS

_BLOCK = 64  # outputs per product: few enough for a nearly banded matrix, enough for an efficient GEMM


def bicubic(x: Tensor, scale: float, border: str = "clamp") -> Tensor:
    """Resample a batch of images by ``scale`` with Keys' cubic (a = -0.5), widened by 1/scale when downsampling.

    Output pixel i (from 1) is centred at i/scale + (1 - 1/scale)/2; its weights are divided by their sum.
    Rows first, then columns. Nothing is clipped. Differentiable; weights are computed in float64 and applied
    in the dtype of ``x``, untouched by autocast.

    Args:
        x: (B, C, H, W).
        scale: Ratio of output to input size: 1/4 shrinks, 4 enlarges.
        border: Pixels outside the image repeat the edge ("clamp", the released code) or reflect the image, edge
            included ("mirror", MATLAB).

    Returns:
        (B, C, floor(H*scale), floor(W*scale)), NCHW-contiguous.

    Raises:
        TypeError: ``x`` is not a floating point tensor, or ``scale`` not a number.
        ValueError: ``x`` has another shape, ``scale`` is not positive or leaves no pixel, or
            ``border`` is unknown.
    """
    check_image("x", x, channels=None)
    check_positive("scale", scale)
    check_choice("border", border, BORDERS)
    if min(output_size(n, scale) for n in x.shape[2:]) < 1:
        raise ValueError(f"scale is {scale!r}, but must leave at least one pixel of {tuple(x.shape[2:])}")
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (_blocks_for(x, size, scale, border) for size in x.shape[2:])
        return apply_blocks(x, rows, columns)


def output_size(size: int, scale: float) -> int:
    """Return floor(size*scale), where a product within rounding error of an integer counts as that integer."""
    return math.floor(size * scale * (1 + 4 * torch.finfo(torch.float64).eps))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5."""
    d = distance.abs()
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return torch.where(d <= 1, near, torch.where(d <= 2, far, torch.zeros_like(d)))


def _blocks_for(x: Tensor, size: int, scale: float, border: str) -> tuple[Block, ...]:
    """Return the blocks of one axis in the dtype and on the device of ``x``.

    They are cached, because every copy to a GPU waits for it.
    """
    return _cast_blocks(size, scale, border, x.dtype, x.device)


@lru_cache(maxsize=64)
def _cast_blocks(size: int, scale: float, border: str, dtype: torch.dtype, device: torch.device) -> tuple[Block, ...]:
    with torch.inference_mode(False):  # cached tensors must work in training too
        made = blocks(_taps(size, scale, border), _BLOCK, dtype)
        return tuple(block._replace(weights=block.weights.to(device).contiguous()) for block in made)


def _taps(size: int, scale: float, border: str) -> Taps:
    """Return the sources and weights along one axis of ``size`` pixels."""
    shrink = min(scale, 1.0)
    support = 4 / shrink
    centers = torch.arange(1, output_size(size, scale) + 1, dtype=torch.float64) / scale + 0.5 * (1 - 1 / scale)
    taps = torch.floor(centers - support / 2)[:, None] + torch.arange(math.ceil(support) + 2)
    weights = _cubic(shrink * (centers[:, None] - taps))
    weights = weights / weights.sum(dim=1, keepdim=True)
    sources = taps.long() - 1
    if border == "clamp":
        sources = sources.clamp(0, size - 1)
    else:
        sources = sources.remainder(2 * size)
        sources = torch.minimum(sources, 2 * size - 1 - sources)
    return Taps(sources, weights)
