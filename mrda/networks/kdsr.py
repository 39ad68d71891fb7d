# SPDX-License-Identifier: Apache-2.0
"""KDSR_S of "Knowledge Distillation based Degradation Estimation for Blind SR" (ICLR 2023), for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mrda.networks.blind import BlindNetwork
from mrda.networks.den import Encoder
from mrda.networks.layers import NEGATIVE_SLOPE, ResidualBlock, conv3x3
from mrda.networks.rda_conv import KDSRConv, SteeredConv
from mrda.networks.trunk import Trunk
from mrda.options.networks import DIV2K_RGB_MEAN, KDSROptions


class KDSREncoder(Encoder):
    """Convolutions and residual blocks, all of stride 1, a global average and two linear layers.

    LeakyReLU follows every layer outside of the residual blocks, the last one too.

    Args:
        width: Channels C of the first map; the raw IDR has 4*C elements.
        num_blocks: Residual blocks.
    """

    stride = 1
    wide = 4

    def __init__(self, width: int, num_blocks: int) -> None:
        super().__init__()
        self.in_channels = 3
        self.reach = 4 + 2 * num_blocks
        layers: list[nn.Module] = [conv3x3(3, width), nn.LeakyReLU(NEGATIVE_SLOPE)]
        layers += [ResidualBlock(width) for _ in range(num_blocks)]
        for channels, out_channels in ((width, 2 * width), (2 * width, 2 * width), (2 * width, 4 * width)):
            layers += [conv3x3(channels, out_channels), nn.LeakyReLU(NEGATIVE_SLOPE)]
        self.convs = nn.Sequential(*layers)
        self.mlp = nn.Sequential(
            nn.Linear(4 * width, 4 * width),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(4 * width, 4 * width),
            nn.LeakyReLU(NEGATIVE_SLOPE),
        )

    def head(self, pooled: Tensor) -> Tensor:
        """Return what the linear layers make of the mean features."""
        return self.mlp(pooled)


class KDSRBlock(nn.Module):
    """A dynamic convolution with its LeakyReLU, a 3x3 convolution, and a skip.

    Args:
        num_feat: Channels C.
        backend: Backend of the dynamic convolution; None lets the operator choose.
    """

    def __init__(self, num_feat: int, *, backend: str | None = None) -> None:
        super().__init__()
        self.dynamic = KDSRConv(num_feat, backend=backend)
        self.conv = conv3x3(num_feat, num_feat)

    def halves(self) -> Sequence[tuple[SteeredConv, nn.Conv2d]]:
        """Return the pair of convolutions."""
        return ((self.dynamic, self.conv),)

    def forward(self, features: Tensor, idr: Tensor) -> Tensor:
        """Return features (B, C, H, W) for features (B, C, H, W) and compressed IDR (B, C)."""
        return self.conv(self.dynamic(features, idr)) + features


class KDSRTrunk(Trunk):
    """The SR part: a chain of blocks."""

    def __init__(self, options: KDSROptions, *, backend: str | None = None) -> None:
        super().__init__()
        self.options: KDSROptions = options
        num_feat = options.num_feat
        self._build(
            torch.tensor(DIV2K_RGB_MEAN, dtype=torch.float64),
            options.scale,
            num_feat,
            4 * num_feat,
            lambda: (KDSRBlock(num_feat, backend=backend) for _ in range(options.num_blocks)),
            compress_bias=True,
        )


class KDSRStudent(BlindNetwork):
    """KDSR_S: its encoder learned the degradation from a teacher that read LR and HR.

    Built from :class:`~mrda.options.networks.KDSROptions`, see :class:`~mrda.networks.options.Configured`; ``backend``
    is that of the dynamic convolutions. The layer that compresses the raw IDR is the trunk's here and the encoder's in
    published files.
    """

    def __init__(self, options: KDSROptions | None = None, *, backend: str | None = None, **changes: Any) -> None:
        super().__init__()
        self.options: KDSROptions = KDSROptions.chosen(options, changes)
        self.rdan = KDSRTrunk(self.options, backend=backend)
        self.den = KDSREncoder(self.options.num_feat, self.options.den_blocks)
