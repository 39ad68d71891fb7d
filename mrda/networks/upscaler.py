# SPDX-License-Identifier: Apache-2.0
"""The upscaler of all networks: sub-pixel convolutions without activation, and the same as a single convolution.

A chain of convolutions and pixel shuffles is one affine map: a 5x5 convolution C -> 3 scale^2 on the LR grid and a
single pixel shuffle. Only the outermost ring of LR pixels differs, because every convolution of the chain pads with
zeros: first, inner and last rows and columns have a kernel and a bias each.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_scale
from mrda.networks.layers import (
    conv3x3,
    convolve,
    is_conv3x3,
    is_eager,
    is_for_cpu_kernels,
    is_untouched,
    without_autocast,
)
from mrda_kernels.conv5x5_shuffle import REACH, SIZE
from mrda_kernels.conv5x5_shuffle import convolve as convolve5x5

__all__ = ["REACH", "Collapsed", "CollapsedUpscaler", "PixelShuffleUpscaler"]  # REACH: in LR pixels, at any scale


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
        """Return the image of ``features``.

        On a CPU in float32 the last step and the last convolution are collapsed in each call, if there are so many
        pixels that this pays. Then training takes a third of the time. On a CPU in half precision and channels_last,
        pixels are shuffled by whole runs of channels.
        """
        if self._pays_to_collapse(features):
            *convs, last = self._convs()
            for conv in convs[:-1]:
                features = F.pixel_shuffle(convolve(conv, features), self.step)
            return F.pixel_shuffle(_collapse([convs[-1], last], self.step)(features), self.step)
        if self._has_runs_of_channels(features):
            *convs, last = self._convs()
            for conv in convs:
                features = _expand(conv, features, self.step)
            return last(features)
        return self.last(self.expand(features))

    def _pays_to_collapse(self, features: Tensor) -> bool:
        batch, channels, height, width = features.shape
        if not is_for_cpu_kernels(features) or min(height, width) < 2:
            return False
        if channels < _FEWEST_CHANNELS or batch * height * width < _FEWEST_PIXELS:
            return False
        return self._is_as_built()

    def _has_runs_of_channels(self, features: Tensor) -> bool:
        if features.device.type != "cpu" or features.element_size() != 2 or not is_eager():
            return False
        return features.is_contiguous(memory_format=torch.channels_last) and self._is_as_built()

    def _is_as_built(self) -> bool:
        return is_untouched(self.expand, nn.Sequential) and all(
            is_untouched(layer, nn.PixelShuffle) and layer.upscale_factor == self.step
            if isinstance(layer, nn.PixelShuffle)
            else is_untouched(layer, nn.Conv2d) and is_conv3x3(layer)
            for layer in (*self.expand, self.last)
        )

    @property
    def step(self) -> int:
        """The enlargement of each pixel shuffle."""
        return 3 if self.scale == 3 else 2

    def _convs(self) -> list[nn.Conv2d]:
        return [layer for layer in (*self.expand, self.last) if isinstance(layer, nn.Conv2d)]

    def collapsed_mult_adds(self, height: int, width: int) -> int:
        """Return the multiply-adds of :class:`CollapsedUpscaler` for one image of LR size, borders included."""
        outputs, per_pixel = 3 * self.scale**2, self.last.in_channels * SIZE**2
        rows, columns = height + 2, width + 2  # a row and a column of every kind are computed once more
        return rows * columns * outputs * per_pixel

    def collapsed(self, dtype: torch.dtype | None = None) -> Collapsed:
        """Collapse the chain into one convolution; differentiable with respect to its weights.

        Args:
            dtype: Dtype to compute in; None is that of the weights.

        Returns:
            Kernels and biases in the dtype of the weights.
        """
        return _collapse(self._convs(), self.step, dtype)


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
        return convolve5x5(features, self.weight, self.bias)


def _expand(conv: nn.Conv2d, features: Tensor, step: int) -> Tensor:
    """Apply a sub-pixel convolution and its pixel shuffle to features in channels_last.

    The convolution's outputs are ordered by the pixel that they go to, so that the channels of a pixel move together.
    """

    def by_pixel(parameter: Tensor) -> Tensor:
        return parameter.unflatten(0, (-1, step * step)).transpose(0, 1).flatten(0, 1)

    wide = F.conv2d(features, by_pixel(conv.weight), None if conv.bias is None else by_pixel(conv.bias), padding=1)
    batch, channels, height, width = wide.shape
    rows = wide.permute(0, 2, 3, 1).reshape(batch, height, width, step, channels // step)
    image = rows.transpose(2, 3).reshape(batch, step * height, step * width, channels // step**2)
    return image.permute(0, 3, 1, 2)


def _around(kernel: Tensor, down: int, right: int) -> Tensor:
    """Shift kernels (N, C, 5, 5) on the features around the middle to those ``down`` and ``right`` of it."""
    kernel = F.pad(kernel, (max(0, -right), max(0, right), max(0, -down), max(0, down)))
    top, left = max(0, down), max(0, right)
    return kernel[..., top : top + SIZE, left : left + SIZE]


def _collapse(chain: Sequence[nn.Conv2d], step: int, dtype: torch.dtype | None = None) -> Collapsed:
    """Collapse convolutions and pixel shuffles by ``step`` between them; see ``collapsed`` for the rest."""
    own, scale = chain[-1].weight.dtype, step ** (len(chain) - 1)
    weights = [conv.weight.to(dtype or own) for conv in chain]
    biases = [None if conv.bias is None else conv.bias.to(dtype or own) for conv in chain]
    outputs = 3 * scale**2

    # Three LR rows and columns have all kinds. The chain's adjoint, applied to each single output pixel of them, gives
    # the weights with which that pixel sees the features around it; the chain applied to zeros, the bias.
    pixels = torch.eye(outputs * 9, dtype=weights[0].dtype, device=weights[0].device)
    seen = pixels.reshape(9 * outputs, outputs, 3, 3)
    image = F.conv_transpose2d(F.pixel_shuffle(seen, scale), weights[-1], padding=1)
    for weight in weights[-2:0:-1]:
        image = F.conv_transpose2d(F.pixel_unshuffle(image, step), weight, padding=1)
    wide = F.conv_transpose2d(F.pixel_unshuffle(image, step), weights[0])  # 5x5: features beyond the border too
    # For the pixel in row i, column j of the three, the 5x5 features around it start at i-2 and j-2 of those around the
    # middle pixel; it does not depend on the others.
    wide = wide.reshape(outputs, 3, 3, *wide.shape[1:])
    weight = torch.stack(
        [_around(wide[:, row, column], row - 1, column - 1) for row in range(3) for column in range(3)]
    )
    zeros = torch.zeros(1, weights[0].shape[1], 3, 3, dtype=weights[0].dtype, device=weights[0].device)
    for conv, bias in zip(weights[:-1], biases[:-1], strict=True):
        zeros = F.pixel_shuffle(F.conv2d(zeros, conv, bias, padding=1), step)
    bias = F.pixel_unshuffle(F.conv2d(zeros, weights[-1], biases[-1], padding=1), scale)[0]
    # Each kernel in channels_last, as the features are.
    weight = weight.to(own).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    return Collapsed(weight, bias.flatten(1).T.to(own))


_FEWEST_PIXELS = 2048  # of all features of a batch, below which composing the kernels takes longer than it saves
_FEWEST_CHANNELS = 32
