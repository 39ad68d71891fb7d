# SPDX-License-Identifier: Apache-2.0
"""Fused kernels for per-sample depthwise dynamic convolution, as torch operators with autograd."""

from mrda_kernels.conv5x5_shuffle import PackedConv5x5, conv5x5_shuffle, pack_conv5x5
from mrda_kernels.rda_conv import dynamic_depthwise_conv2d, rda_conv2d
from mrda_kernels.rda_conv3x3 import PackedConv3x3, conv3x3, pack_conv3x3, rda_conv3x3

__all__ = [
    "PackedConv3x3",
    "PackedConv5x5",
    "conv3x3",
    "conv5x5_shuffle",
    "dynamic_depthwise_conv2d",
    "pack_conv3x3",
    "pack_conv5x5",
    "rda_conv2d",
    "rda_conv3x3",
]
__version__ = "0.1.0"
