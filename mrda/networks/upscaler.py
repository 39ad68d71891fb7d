"""The upscaler of all networks: sub-pixel convolutions without activation, run as one convolution where that pays.

A chain of convolutions and pixel shuffles is one affine map: a 5x5 convolution C -> 3 scale^2 on the LR grid and a
single pixel shuffle. Only the outermost ring of LR pixels differs, as each map on the way is padded with zeros there;
first, inner and last rows and columns have a kernel and a bias each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_scale
from mrda.networks.kept import Kept, is_traced
from mrda.networks.layers import conv3x3, is_autocast, without_autocast

_Padding = tuple[int, int]
_SIZE = 5  # of the collapsed kernels: the chain's maps reach two LR pixels far
REACH = _SIZE // 2
"""LR pixels around it that a pixel of the image sees, at any scale."""


class Collapsed(NamedTuple):
    """The chain as one convolution, for the 3 x 3 kinds of rows and columns: first, inner, last.

    Attributes:
        weight: (3, 3, 3 scale^2, C, 5, 5).
        bias: (3, 3, 3 scale^2).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return (B, 3 scale^2, H, W), to be shuffled, of features (B, C, H, W) with H and W at least 2."""
        first, inner, last = (
            self._row(kind, features[:, :, cut], padding)
            for kind, (cut, padding) in enumerate(_kinds(features.shape[2]))
        )
        return torch.cat([first, inner[:, :, 1:-1], last], dim=2)

    def _row(self, kind: int, rows: Tensor, padding: _Padding) -> Tensor:
        first, inner, last = (
            self._part(kind, place, rows[..., cut], (*sides, *padding))
            for place, (cut, sides) in enumerate(_kinds(rows.shape[3]))
        )
        return torch.cat([first, inner[..., 1:-1], last], dim=3)

    def _part(self, row: int, column: int, part: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
        weight, bias = self.weight[row, column], self.bias[row, column]
        if row == column == 1:  # the whole map, which is not to be copied
            return F.conv2d(part, weight, bias, padding=REACH)
        return F.conv2d(F.pad(part, padding), weight, bias)


def _kinds(length: int) -> list[tuple[slice, _Padding]]:
    """What the first, all, and the last of so many rows or columns see: a cut, and zeros before and after it."""
    seen = min(REACH + 1, length)
    missing = REACH + 1 - seen
    return [
        (slice(seen), (REACH, missing)),
        (slice(None), (REACH, REACH)),
        (slice(length - seen, None), (missing, REACH)),
    ]


class PixelShuffleUpscaler(nn.Module):
    """Features (B, C, H, W) to an image (B, 3, scale*H, scale*W): sub-pixel convolutions, no activation.

    x2 is one convolution C -> 4C and a pixel shuffle, x4 two such steps, x3 one step C -> 9C; a last
    convolution C -> 3 follows.

    Attributes:
        collapse: whether to run the whole chain as one convolution: never (False), always (True), or wherever no
            gradient is to reach the chain's weights (None, the default), which are then collapsed once, until one of
            them is seen to change: a change in place through ``.data`` is not seen. Images of a single row or column
            always go the long way.
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
        self.collapse: bool | None = None
        self._kept: Kept[Collapsed] = Kept()

    def forward(self, features: Tensor) -> Tensor:
        """Return the image of ``features``."""
        if min(features.shape[2:]) < 2 or not self._collapses():
            return self._chain(features)
        # Cheap enough for the weights' own precision, which the image's last bits need.
        with without_autocast(features.device):
            return F.pixel_shuffle(self._collapsed()(features.to(self.last.weight.dtype)), self.scale)

    def _chain(self, features: Tensor) -> Tensor:
        if not is_autocast(features.device):
            features = features.to(self.last.weight.dtype)  # they may come in half precision
        return self.last(self.expand(features))

    def _collapses(self) -> bool:
        return not is_traced(self.parameters()) if self.collapse is None else self.collapse

    def _collapsed(self) -> Collapsed:
        """The collapsed chain, kept where nothing traces it; then once is worth the highest precision."""
        weights: list[Tensor] = list(self.parameters())
        return self._kept(weights, lambda: self.collapsed(None if is_traced(weights) else torch.float64))

    def collapsed_mult_adds(self, height: int, width: int) -> int:
        """Multiply-adds of one image of LR size where the chain is collapsed, the ring at the border included."""
        outputs, per_pixel = 3 * self.scale**2, self.last.in_channels * _SIZE**2
        rows, columns = height + 2, width + 2  # a row and a column of every kind are computed once more
        return rows * columns * outputs * per_pixel

    def collapsed(self, dtype: torch.dtype | None = None) -> Collapsed:
        """Collapse the chain; differentiable with respect to its weights.

        Args:
            dtype: what to compute in; None is that of the weights.

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
        # gives the weights with which that pixel sees the features around it; zeros in, and the bias comes out.
        pixels = torch.eye(outputs * 9, dtype=weights[0].dtype, device=weights[0].device)
        seen = pixels.reshape(9 * outputs, outputs, 3, 3)
        image = F.conv_transpose2d(F.pixel_shuffle(seen, self.scale), weights[-1], padding=1)
        for weight in weights[-2:0:-1]:
            image = F.conv_transpose2d(F.pixel_unshuffle(image, step), weight, padding=1)
        wide = F.conv_transpose2d(F.pixel_unshuffle(image, step), weights[0])  # 5x5: features beyond the border too
        # Of the pixel in row i, column j of the three, the 5x5 features around it lie at i-2 and j-2 in those around
        # the middle; the others it does not see.
        wide = wide.reshape(outputs, 3, 3, *wide.shape[1:])
        weight = torch.stack(
            [
                torch.stack([_around(wide[:, row, column], row - 1, column - 1) for column in range(3)])
                for row in range(3)
            ]
        )
        zeros = torch.zeros(1, weights[0].shape[1], 3, 3, dtype=weights[0].dtype, device=weights[0].device)
        for conv, bias in zip(weights[:-1], biases[:-1], strict=True):
            zeros = F.pixel_shuffle(F.conv2d(zeros, conv, bias, padding=1), step)
        bias = F.pixel_unshuffle(F.conv2d(zeros, weights[-1], biases[-1], padding=1), self.scale)[0]
        # Each kind's kernel in channels_last, as the features are.
        weight = weight.to(own).permute(0, 1, 2, 4, 5, 3).contiguous().permute(0, 1, 2, 5, 3, 4)
        return Collapsed(weight, bias.permute(1, 2, 0).to(own))


def _around(kernel: Tensor, down: int, right: int) -> Tensor:
    """Kernels (N, C, 5, 5) on the features around the middle, on those ``down`` and ``right`` of it instead."""
    kernel = F.pad(kernel, (max(0, -right), max(0, right), max(0, -down), max(0, down)))
    top, left = max(0, down), max(0, right)
    return kernel[..., top : top + _SIZE, left : left + _SIZE]
