"""The pieces that the networks share."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from mrda.checks import check_scale

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in the published networks


Module = TypeVar("Module", bound=nn.Module)


def to_channels_last(module: Module) -> Module:
    """Put 4-D parameters into the layout that convolutions are fastest in; returns ``module``."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def freeze(module: Module) -> Module:
    """Switch off gradients for good; returns ``module``."""
    return module.requires_grad_(False).eval()


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """The one static convolution of MRDA: 3x3, zero padding 1, with bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


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

    def forward(self, features: Tensor) -> Tensor:
        """Return the image of ``features``."""
        return self.last(self.expand(features))
