"""The operators of torch.library: schemas, implementations, fake kernels and gradients.

The forward operators save nothing but their inputs: the backward recomputes what it needs. The backward operators are
differentiable too, through the reference's formulas, so gradients of any order exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrda_kernels import checks, dispatch, reference
from mrda_kernels.memory_format import empty_result

_TYPES = "default"  # of device: backends decide what they serve

torch.library.define(
    "mrda_kernels::rda_conv2d",
    "(Tensor input, Tensor weight, Tensor mask_weight, Tensor? mask_bias, float negative_slope,"
    " float? output_negative_slope, str? backend) -> Tensor",
)
torch.library.define(
    "mrda_kernels::rda_conv2d_backward",
    "(Tensor grad_output, Tensor input, Tensor weight, Tensor mask_weight, Tensor? mask_bias, float negative_slope,"
    " float? output_negative_slope, str? backend) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define("mrda_kernels::dynamic_depthwise_conv2d", "(Tensor input, Tensor weight, str? backend) -> Tensor")
torch.library.define(
    "mrda_kernels::dynamic_depthwise_conv2d_backward",
    "(Tensor grad_output, Tensor input, Tensor weight, str? backend) -> (Tensor, Tensor)",
)


def _select(backend: str | None, input: Tensor, mode: str) -> dispatch.Backend:
    return dispatch.select(backend, input.device.type, dispatch.Kind.of(input, mode))


# ---- rda_conv2d ----------------------------------------------------------------------------------------------------


def check_rda(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
) -> None:
    """Check the arguments of ``rda_conv2d``."""
    checks.check_input_and_weight(input, weight)
    checks.check_mask(input, mask_weight, mask_bias)
    checks.check_slopes(negative_slope=negative_slope, output_negative_slope=output_negative_slope)


@torch.library.impl("mrda_kernels::rda_conv2d", _TYPES)
def _rda_conv2d(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
    backend: str | None,
) -> Tensor:
    arguments = (input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
    check_rda(*arguments)
    chosen = _select(backend, input, "forward")
    if input.numel() == 0:
        return empty_result(input)
    return chosen.forward(*arguments)


@torch.library.register_fake("mrda_kernels::rda_conv2d")
def _rda_conv2d_fake(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
    backend: str | None,
) -> Tensor:
    check_rda(input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
    return empty_result(input)


@torch.library.impl("mrda_kernels::rda_conv2d_backward", _TYPES)
def _rda_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
    backend: str | None,
) -> tuple[Tensor, ...]:
    arguments = (input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
    check_rda(*arguments)
    checks.check_grad_output(input, grad_output)
    chosen = _select(backend, input, "forward_backward")
    if input.numel() == 0:
        bias = mask_weight.new_zeros(mask_weight.shape[0])
        return empty_result(input), weight.new_zeros(weight.shape), mask_weight.new_zeros(mask_weight.shape), bias
    return chosen.backward(grad_output, *arguments)


@torch.library.register_fake("mrda_kernels::rda_conv2d_backward")
def _rda_conv2d_backward_fake(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
    backend: str | None,
) -> tuple[Tensor, ...]:
    check_rda(input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
    checks.check_grad_output(input, grad_output)
    bias = mask_weight.new_empty(mask_weight.shape[0])
    return empty_result(input), weight.new_empty(weight.shape), mask_weight.new_empty(mask_weight.shape), bias


def _save_rda(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.negative_slope, ctx.output_negative_slope, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _rda_conv2d_autograd(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors  # once: activation checkpointing recomputes them here, and refuses a second time
    grads: tuple[Any, ...] = torch.ops.mrda_kernels.rda_conv2d_backward(
        grad_output, *tensors, ctx.negative_slope, ctx.output_negative_slope, ctx.backend
    )
    if tensors[3] is None:
        grads = (*grads[:3], None)
    return *grads, None, None, None


def _rda_conv2d_backward_autograd(ctx: Any, *grad_grads: Tensor) -> tuple[Any, ...]:
    def first_order(*tensors: Tensor) -> tuple[Tensor, ...]:
        return reference.rda_conv2d_backward(
            *tensors, negative_slope=ctx.negative_slope, output_negative_slope=ctx.output_negative_slope
        )

    return *_differentiate(first_order, ctx.saved_tensors, grad_grads), None, None, None


torch.library.register_autograd("mrda_kernels::rda_conv2d", _rda_conv2d_autograd, setup_context=_save_rda)
torch.library.register_autograd(
    "mrda_kernels::rda_conv2d_backward", _rda_conv2d_backward_autograd, setup_context=_save_rda
)


# ---- dynamic_depthwise_conv2d --------------------------------------------------------------------------------------


@torch.library.impl("mrda_kernels::dynamic_depthwise_conv2d", _TYPES)
def _dynamic(input: Tensor, weight: Tensor, backend: str | None) -> Tensor:
    checks.check_input_and_weight(input, weight)
    chosen = _select(backend, input, "forward")
    if input.numel() == 0:
        return empty_result(input)
    return chosen.forward(input, weight, None, None, 1.0, None)


@torch.library.register_fake("mrda_kernels::dynamic_depthwise_conv2d")
def _dynamic_fake(input: Tensor, weight: Tensor, backend: str | None) -> Tensor:
    checks.check_input_and_weight(input, weight)
    return empty_result(input)


@torch.library.impl("mrda_kernels::dynamic_depthwise_conv2d_backward", _TYPES)
def _dynamic_backward(grad_output: Tensor, input: Tensor, weight: Tensor, backend: str | None) -> tuple[Tensor, ...]:
    checks.check_input_and_weight(input, weight)
    checks.check_grad_output(input, grad_output)
    chosen = _select(backend, input, "forward_backward")
    if input.numel() == 0:
        return empty_result(input), weight.new_zeros(weight.shape)
    return chosen.backward(grad_output, input, weight, None, None, 1.0, None)


@torch.library.register_fake("mrda_kernels::dynamic_depthwise_conv2d_backward")
def _dynamic_backward_fake(
    grad_output: Tensor, input: Tensor, weight: Tensor, backend: str | None
) -> tuple[Tensor, ...]:
    checks.check_input_and_weight(input, weight)
    checks.check_grad_output(input, grad_output)
    return empty_result(input), weight.new_empty(weight.shape)


def _save_dynamic(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _dynamic_autograd(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    return *torch.ops.mrda_kernels.dynamic_depthwise_conv2d_backward(grad_output, *ctx.saved_tensors, ctx.backend), None


def _dynamic_backward_autograd(ctx: Any, *grad_grads: Tensor) -> tuple[Any, ...]:
    return *_differentiate(reference.dynamic_depthwise_conv2d_backward, ctx.saved_tensors, grad_grads), None


torch.library.register_autograd(
    "mrda_kernels::dynamic_depthwise_conv2d", _dynamic_autograd, setup_context=_save_dynamic
)
torch.library.register_autograd(
    "mrda_kernels::dynamic_depthwise_conv2d_backward", _dynamic_backward_autograd, setup_context=_save_dynamic
)


# ---- shared --------------------------------------------------------------------------------------------------------


def _differentiate(function: Any, tensors: Any, grad_outputs: Any) -> list[Tensor | None]:
    """Gradients of ``function(*tensors)`` for those tensors that want one; differentiable in their turn."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: the way from grad_output on to the inputs, if there is one, belongs to the graph outside.
        tensors = [None if t is None else t.view_as(t) for t in tensors]
        outputs = function(*tensors)
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    pairs = [(o, g) for o, g in zip(outputs, grad_outputs, strict=True) if g is not None and o.requires_grad]
    grads = iter(
        torch.autograd.grad(
            [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=create_graph, allow_unused=True
        )
    )
    return [next(grads) if t is not None and t.requires_grad else None for t in tensors]
