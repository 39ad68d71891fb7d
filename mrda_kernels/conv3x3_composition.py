# SPDX-License-Identifier: Apache-2.0
"""The work of the half block's operators: the kernel of a backend that has one, otherwise the composition."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda_kernels import dispatch, reference
from mrda_kernels.backends import cpu
from mrda_kernels.call import functorch_is_active, is_known, is_plain_tensor, without_autocast
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


@reference.without_autocast
def run(call: Conv3x3Call, backend: str | None) -> Tensor:
    """Return the result of the operators that a call is made of; differentiable."""
    if any(is_known(size == 0) for size in call.result_shape):  # conv2d refuses it; all gradients are zeros
        inputs = (tensor for tensor in call.tensors() if tensor is not None and tensor is not call.packed_weight)
        return call.empty_result() + sum(tensor.sum() for tensor in inputs)
    if dispatch.select(backend, call.input.device) is dispatch.load("reference"):
        return reference.conv3x3(call)
    features = call.input
    if call.steered is not None:
        input, weight, mask_weight, mask_bias, slope, inner_slope = call.steered
        features = rda_conv2d(
            input,
            weight,
            mask_weight,  # type: ignore[arg-type]  # there is one: rda_conv3x3 takes no bare convolution
            mask_bias,
            negative_slope=slope,
            output_negative_slope=inner_slope,
            backend=backend,
        )
    out = F.conv2d(features, call.conv_weight, call.conv_bias, padding=1)
    recorded = torch.is_grad_enabled() and call.requires_grad()
    inplace = not (recorded or torch.compiler.is_compiling() or functorch_is_active())
    if call.skip is not None:
        out = out.add_(call.skip) if inplace else out + call.skip
    if call.output_negative_slope is not None:
        out = F.leaky_relu(out, call.output_negative_slope, inplace=inplace)
    return out.contiguous(memory_format=call.like_input.memory_format)


def packed(conv_weight: Tensor) -> Tensor | None:
    """Return weights (C_out, C_in, 3, 3) in the layout of the "cpu" backend.

    None if it does not serve their device, or if they have no memory to read: those of a traced program, for example.
    """
    if torch.compiler.is_compiling() or not is_plain_tensor(conv_weight) or cpu.why_not(conv_weight.device) is not None:
        return None
    return cpu.pack_conv3x3(conv_weight)
