# SPDX-License-Identifier: Apache-2.0
"""The work of the half block's operators: the kernel of a backend that has one, otherwise the composition.

For a gradient, a backend's kernel keeps the RDA convolution's result too; then the gradient is that of the composition,
step by step, and a backend may have a kernel for the convolution's step. On other backends the composition itself is
recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda_kernels import dispatch, rda_conv, reference
from mrda_kernels.backends import cpu
from mrda_kernels.call import functorch_is_active, is_known, is_plain, is_plain_tensor, without_autocast
from mrda_kernels.conv3x3_call import Conv3x3Call, conv3x3_gradients


def forward(call: Conv3x3Call, backend: str | None) -> Tensor:
    """Return the result of a checked call, without a gradient."""
    if 0 in call.result_shape:
        return call.empty_result()
    chosen: Any = dispatch.select(backend, call.input.device)
    with without_autocast():
        if hasattr(chosen, "conv3x3_forward") and chosen.serves_conv3x3(call):  # a backend need not have one
            return chosen.conv3x3_forward(call)
    return run(call, backend)


def recorded(call: Conv3x3Call, backend: str | None) -> Tensor:
    """Return the result of a checked eager call, for reverse-mode AD."""
    chosen: Any = dispatch.select(backend, call.input.device)
    slope = call.output_negative_slope
    # with a slope below 0 the result does not tell the sign of what was activated
    if (
        0 not in call.result_shape
        and hasattr(chosen, "conv3x3_with_features")
        and (slope is None or slope >= 0)
        and chosen.serves_conv3x3(call, recorded=True)
    ):
        return _KeepingFeatures.apply(chosen, backend, call.steered is not None, *call.flat())
    return run(call, backend)


class _KeepingFeatures(torch.autograd.Function):
    """Half an RDA block by a kernel that keeps the RDA convolution's result, and its gradient.

    Without an RDA convolution the features are the input.
    """

    @staticmethod
    def forward(ctx: Any, chosen: Any, backend: str | None, is_steered: bool, *arguments: Any) -> Tensor:
        call = Conv3x3Call.from_flat(arguments, is_steered)
        with without_autocast():
            output, features = chosen.conv3x3_with_features(call)
        result = None if call.output_negative_slope is None else output
        ctx.save_for_backward(features, result, *(t if isinstance(t, Tensor) else None for t in arguments))
        ctx.options = chosen, backend, is_steered, [None if isinstance(t, Tensor) else t for t in arguments]
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        chosen, backend, is_steered, others = ctx.options
        features, result, *tensors = ctx.saved_tensors  # read once: checkpointing refuses a second time
        arguments = [other if tensor is None else tensor for tensor, other in zip(tensors, others, strict=True)]
        call, wanted = Conv3x3Call.from_flat(arguments, is_steered), ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or not is_plain((grad_output,)):
            return None, None, None, *_gradients_of_composition(grad_output, arguments, is_steered, wanted, backend)
        with without_autocast():
            return None, None, None, *_gradients(grad_output, call, features, result, wanted, chosen)


def _gradients(
    grad: Tensor, call: Conv3x3Call, features: Tensor, result: Tensor | None, wanted: Sequence[bool], chosen: Any
) -> list[Tensor | None]:
    """Return the gradients of all arguments of the operator, by the steps of :func:`run` from the last to the first.

    Args:
        grad: That of the result.
        call: The call.
        features: What was convolved: the RDA convolution's result, or the input.
        result: The result, if it is activated.
        wanted: True for each argument whose gradient is wanted.
        chosen: The backend.
    """
    *of_before, of_weight, _, of_bias, of_skip, _ = wanted
    if result is not None:
        assert call.output_negative_slope is not None
        grad = reference.leaky_relu_backward(grad, result, call.output_negative_slope)  # the result has the same sign
    gradients_of_conv = getattr(chosen, "conv3x3_gradients", conv3x3_gradients)
    grad_features, grad_weight, grad_bias = gradients_of_conv(
        grad, features, call.conv_weight, (any(of_before), of_weight, of_bias)
    )
    before: list[Tensor | None] = [None] * len(of_before)
    if grad_features is not None:
        found = (
            (grad_features,)
            if call.steered is None
            else rda_conv.backend_gradients(grad_features, call.steered, chosen)
        )
        before[: len(found)] = found
    needed = [g if of else None for g, of in zip(before, of_before, strict=True)]
    return [*needed, grad_weight, None, grad_bias, grad if of_skip else None, None]


def _gradients_of_composition(
    grad: Tensor, arguments: Sequence[Any], is_steered: bool, wanted: Sequence[bool], backend: str | None
) -> list[Tensor | None]:
    """Return the gradients of all arguments, which can be differentiated: the composition is computed for them."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: the graph that leads from the gradient to the inputs, if there is one, is not this function's.
        inputs = [t.view_as(t) if isinstance(t, Tensor) else t for t in arguments]
        output = run(Conv3x3Call.from_flat(inputs, is_steered), backend)
    leaves = [t for t, of in zip(inputs, wanted, strict=True) if of]
    found = iter(torch.autograd.grad(output, leaves, grad, create_graph=create_graph))
    return [next(found) if of else None for of in wanted]


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
        features = rda_conv.run(call.steered, backend)
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
