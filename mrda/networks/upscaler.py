# SPDX-License-Identifier: Apache-2.0
"""The upscaler of all networks: sub-pixel convolutions without activation, and the same as a single convolution.

A chain of convolutions and pixel shuffles is one affine map: a 5x5 convolution C -> 3 scale^2 on the LR grid and a
single pixel shuffle. Only the outermost ring of LR pixels differs, because every convolution of the chain pads with
zeros: first, inner and last rows and columns have a kernel and a bias each.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_scale
from mrda.networks.layers import conv3x3, without_autocast

_Padding = tuple[int, int]
_SIZE = 5  # of the collapsed kernels: the chain's output depends on LR pixels up to two away
REACH = _SIZE // 2
"""Radius of the receptive field in LR pixels, at any scale."""


class PixelShuffleUpscaler(nn.Module):
    """Features (B, C, H, W) to an image (B, 3, scale*H, scale*W): sub-pixel convolutions, no activation.

    x2 is one convolution C -> 4C and a pixel shuffle, x4 two such steps, x3 one step C -> 9C; a last
    convolution C -> 3 follows.
    """

    def __init__(self, num_feat: int, scale: int) -> None:
        super().__init__()
        check_scale(scale)
        steps = [3] if scale == 3 else [2] * (scale // 2)
        layers: list[nn.Module] = []
        for step in steps:
            layers += [conv3x3(num_feat, step * step * num_feat), nn.PixelShuffle(step)]
        self.expand = nn.Sequential(*layers)
        self.last = conv3x3(num_feat, 3)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Return the image of ``features``."""
        return self.last(self.expand(features))

    def collapsed_mult_adds(self, height: int, width: int) -> int:
        """Return the multiply-adds of :class:`CollapsedUpscaler` for one image of LR size, borders included."""
        outputs, per_pixel = 3 * self.scale**2, self.last.in_channels * _SIZE**2
        rows, columns = height + 2, width + 2  # a row and a column of every kind are computed once more
        return rows * columns * outputs * per_pixel

    def collapsed(self, dtype: torch.dtype | None = None) -> Collapsed:
        """Collapse the chain into one convolution; differentiable with respect to its weights.

        Args:
            dtype: Dtype to compute in; None is that of the weights.

        Returns:
            Kernels and biases in the dtype of the weights.
        """
        own = self.last.weight.dtype
        convs = [layer for layer in self.expand if isinstance(layer, nn.Conv2d)]
        weights = [conv.weight.to(dtype or own) for conv in [*convs, self.last]]
        biases = [conv.bias.to(dtype or own) for conv in [*convs, self.last] if conv.bias is not None]
        step = 3 if self.scale == 3 else 2
        outputs = 3 * self.scale**2

        # Three LR rows and columns have all kinds. The chain's adjoint, applied to each single output pixel of them,
        # gives the weights with which that pixel sees the features around it; the chain applied to zeros, the bias.
        pixels = torch.eye(outputs * 9, dtype=weights[0].dtype, device=weights[0].device)
        seen = pixels.reshape(9 * outputs, outputs, 3, 3)
        image = F.conv_transpose2d(F.pixel_shuffle(seen, self.scale), weights[-1], padding=1)
        for weight in weights[-2:0:-1]:
            image = F.conv_transpose2d(F.pixel_unshuffle(image, step), weight, padding=1)
        wide = F.conv_transpose2d(F.pixel_unshuffle(image, step), weights[0])  # 5x5: features beyond the border too
        # For the pixel in row i, column j of the three, the 5x5 features around it start at i-2 and j-2 of those
        # around the middle pixel; it does not depend on the others.
        wide = wide.reshape(outputs, 3, 3, *wide.shape[1:])
        weight = torch.stack(
            [_around(wide[:, row, column], row - 1, column - 1) for row in range(3) for column in range(3)]
        )
        zeros = torch.zeros(1, weights[0].shape[1], 3, 3, dtype=weights[0].dtype, device=weights[0].device)
        for conv, bias in zip(weights[:-1], biases[:-1], strict=True):
            zeros = F.pixel_shuffle(F.conv2d(zeros, conv, bias, padding=1), step)
        bias = F.pixel_unshuffle(F.conv2d(zeros, weights[-1], biases[-1], padding=1), self.scale)[0]
        # Each kernel in channels_last, as the features are.
        weight = weight.to(own).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        return Collapsed(weight, bias.flatten(1).T.to(own))


class CollapsedUpscaler(PixelShuffleUpscaler):
    """A :class:`PixelShuffleUpscaler` that runs as one convolution: for inference, or while its weights are frozen.

    The kernel is computed once, in float64, from a copy of the weights: later changes of the original have no effect,
    and no gradient reaches either. Features are converted to the dtype of the weights, also under autocast, because
    the image's last bits need it. Images of a single row or column go through the chain.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, upscaler: PixelShuffleUpscaler) -> None:
        nn.Module.__init__(self)
        with torch.inference_mode(False), torch.no_grad(), without_autocast(upscaler.last.weight.device):
            self.expand = copy.deepcopy(upscaler.expand).requires_grad_(False)
            self.last = copy.deepcopy(upscaler.last).requires_grad_(False)
            self.scale = upscaler.scale
            weight, bias = self.collapsed(torch.float64)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the image of ``features``."""
        with without_autocast(features.device):
            features = features.to(self.weight.dtype)
            if min(features.shape[2:]) < 2:
                return super().forward(features)
            return F.pixel_shuffle(Collapsed(self.weight, self.bias)(features), self.scale)


class Collapsed(NamedTuple):
    """The chain as one convolution, for the 3 x 3 kinds of rows and columns: first, inner, last.

    Attributes:
        weight: (9, 3 scale^2, C, 5, 5); kind 3 i + j is that of rows of kind i and columns of kind j.
        bias: (9, 3 scale^2).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return (B, 3 scale^2, H, W), before the pixel shuffle, of features (B, C, H, W); H and W at least 2."""
        kinds = list(zip(self.weight.unbind(), self.bias.unbind(), strict=True))
        first, inner, last = (
            _row(kinds[3 * row : 3 * row + 3], features[:, :, cut], padding)
            for row, (cut, padding) in enumerate(_parts(features.shape[2]))
        )
        return torch.cat([first, inner[:, :, 1:-1], last], dim=2)


def _row(kinds: list[tuple[Tensor, Tensor]], rows: Tensor, padding: _Padding) -> Tensor:
    first, inner, last = (
        _convolve(rows[..., cut], weight, bias, (*sides, *padding))
        for (weight, bias), (cut, sides) in zip(kinds, _parts(rows.shape[3]), strict=True)
    )
    return torch.cat([first, inner[..., 1:-1], last], dim=3)


def _convolve(part: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    if padding == (REACH,) * 4:  # the whole map: padded by the convolution, without a copy
        return F.conv2d(part, weight, bias, padding=REACH)
    return F.conv2d(F.pad(part, padding), weight, bias)


def _parts(length: int) -> list[tuple[slice, _Padding]]:
    """Return what the first, all, and the last rows (or columns) of so many depend on: a slice, and its padding."""
    seen = min(REACH + 1, length)
    missing = REACH + 1 - seen
    return [
        (slice(seen), (REACH, missing)),
        (slice(None), (REACH, REACH)),
        (slice(length - seen, None), (missing, REACH)),
    ]


def _around(kernel: Tensor, down: int, right: int) -> Tensor:
    """Shift kernels (N, C, 5, 5) on the features around the middle to those ``down`` and ``right`` of it."""
    kernel = F.pad(kernel, (max(0, -right), max(0, right), max(0, -down), max(0, down)))
    top, left = max(0, down), max(0, right)
    return kernel[..., top : top + _SIZE, left : left + _SIZE]
