# SPDX-License-Identifier: Apache-2.0
"""The work of the half block's operators: the kernel of a backend that has one, otherwise the composition."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda_kernels import dispatch, reference
from mrda_kernels.backends import cpu
from mrda_kernels.call import without_autocast
from mrda_kernels.conv3x3_call import Conv3x3Call
from mrda_kernels.rda_conv import rda_conv2d


def forward(call: Conv3x3Call, backend: str | None) -> Tensor:
    """Return the result of a checked call, without a gradient."""
    if 0 in call.result_shape:
        return call.empty_result()
    chosen: Any = dispatch.select(backend, call.input.device)
    with without_autocast():
        if hasattr(chosen, "conv3x3_forward") and chosen.serves_conv3x3(call):  # a backend need not have one
            return chosen.conv3x3_forward(call)
    return run(call, backend)


def run(call: Conv3x3Call, backend: str | None) -> Tensor:
    """Return the result of the operators that a call is made of; differentiable."""
    chosen = dispatch.select(backend, call.input.device)
    if chosen is dispatch.load("reference"):
        return reference.conv3x3(call)
    steered = call.steered
    features = call.input
    if steered is not None:
        features = rda_conv2d(
            steered.input,
            steered.weight,
            steered.mask_weight,  # type: ignore[arg-type]  # there is one: rda_conv3x3 takes no bare convolution
            steered.mask_bias,
            negative_slope=steered.negative_slope,
            output_negative_slope=steered.output_negative_slope,
            backend=backend,
        )
    out = F.conv2d(features, call.conv_weight, call.conv_bias, padding=1)
    inplace = not (torch.is_grad_enabled() and call.requires_grad()) and not torch.compiler.is_compiling()
    if call.skip is not None:
        out = out.add_(call.skip) if inplace else out + call.skip
    if call.output_negative_slope is not None:
        out = F.leaky_relu(out, call.output_negative_slope, inplace=inplace)
    return out.contiguous(memory_format=call.like_input.memory_format)


def packed(conv_weight: Tensor) -> Tensor | None:
    """Return weights (C_out, C_in, 3, 3) in the layout of the "cpu" backend; None if it does not serve their device."""
    return None if cpu.why_not(conv_weight.device) is not None else cpu.pack_conv3x3(conv_weight)
