# SPDX-License-Identifier: Apache-2.0
"""DASR, "Unsupervised Degradation Representation Learning for Blind Super-Resolution" (CVPR 2021), for inference.

Its weights are for images in [0, 255]; the network takes and gives [0, 1] as all others here.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from mrda.networks.blind import BlindNetwork
from mrda.networks.den import Encoder
from mrda.networks.layers import NEGATIVE_SLOPE, FrozenBatchNorm, conv3x3
from mrda.networks.rdan import RDAB
from mrda.networks.trunk import Block, Trunk
from mrda.options.networks import DIV2K_RGB_MEAN, ConvOptions, DASROptions

IMAGE_RANGE = 255.0
"""White in the images that the published weights are for."""


class DASREncoder(Encoder):
    """Six convolutions, two of stride 2, each with BatchNorm and LeakyReLU, and a global average.

    The two linear layers after it are for the contrastive loss. They are kept, in ``mlp``, only to be written back.

    Args:
        width: Channels of the first two convolutions; the next two have 2*width, the last two 4*width.
    """

    image_range = IMAGE_RANGE

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_channels = channels = 3
        layers: list[nn.Module] = []
        for widening, stride in ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
            layers += [
                conv3x3(channels, widening * width, stride),
                FrozenBatchNorm(widening * width),
                nn.LeakyReLU(NEGATIVE_SLOPE),
            ]
            channels = widening * width
        self.convs = nn.Sequential(*layers)
        self.mlp = nn.ModuleDict({place: _Stored(channels) for place in ("0", "2")})


class _Stored(nn.Module):
    """The weights of a linear layer that is never called; buffers, because they are no part of the network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(width, width))
        self.register_buffer("bias", torch.zeros(width))


class DASRTrunk(Trunk):
    """The SR part: groups of blocks like RDA blocks, with DASR's convolution; a 3x3 convolution ends each."""

    image_range = IMAGE_RANGE

    def __init__(self, options: DASROptions, *, backend: str | None = None) -> None:
        super().__init__()
        self.options: DASROptions = options
        num_feat, conv = options.num_feat, ConvOptions(conv_type="dasr_da")
        self._build(
            torch.tensor(DIV2K_RGB_MEAN, dtype=torch.float64),
            options.scale,
            num_feat,
            4 * options.den_width,
            lambda: (RDAB(num_feat, conv, backend=backend) for _ in range(options.num_groups * options.num_blocks)),
        )
        self.group_tails = nn.ModuleList(conv3x3(num_feat, num_feat) for _ in range(options.num_groups))

    def groups(self) -> list[tuple[list[Block], nn.Conv2d | None]]:
        """Return the groups of blocks, each with the 3x3 convolution that ends it."""
        blocks, size = cast("list[Block]", list(self.blocks)), self.options.num_blocks
        tails = cast("list[nn.Conv2d]", list(self.group_tails))
        return [(blocks[number * size : (number + 1) * size], tail) for number, tail in enumerate(tails)]


class DASR(BlindNetwork):
    """DASR (``blindsr``), whose encoder learned the degradation by contrast.

    Built from :class:`~mrda.options.networks.DASROptions`, see :class:`~mrda.networks.options.Configured`; ``backend``
    is that of the dynamic convolutions. It is for inference: its BatchNorm keeps the statistics that were loaded, and
    the contrastive loss with its momentum encoder is not here.
    """

    def __init__(self, options: DASROptions | None = None, *, backend: str | None = None, **changes: Any) -> None:
        super().__init__()
        self.options: DASROptions = DASROptions.chosen(options, changes)
        self.rdan = DASRTrunk(self.options, backend=backend)
        self.den = DASREncoder(self.options.den_width)
