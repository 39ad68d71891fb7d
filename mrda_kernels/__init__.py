# SPDX-License-Identifier: Apache-2.0
"""Fused kernels for per-sample depthwise dynamic convolution, as torch operators with autograd."""

from mrda_kernels.rda_conv import dynamic_depthwise_conv2d, rda_conv2d

__all__ = ["dynamic_depthwise_conv2d", "rda_conv2d"]
__version__ = "0.1.0"
