"""The eager oracle as a backend: serves everything, everywhere."""

from __future__ import annotations

from torch import Tensor

from mrda_kernels import reference
from mrda_kernels.memory_format import empty_result


def why_not(device_type: str) -> str | None:
    """None: the reference serves every device."""
    return None


def details() -> str:
    """What it is."""
    return "eager PyTorch, any device, slow"


def forward(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor | None,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
) -> Tensor:
    """The result, in the operator's memory format."""
    if mask_weight is None:
        out = reference.dynamic_depthwise_conv2d(input, weight)
    else:
        out = reference.rda_conv2d(
            input,
            weight,
            mask_weight,
            mask_bias,
            negative_slope=negative_slope,
            output_negative_slope=output_negative_slope,
        )
    return empty_result(input).copy_(out)


def backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor | None,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
) -> tuple[Tensor, ...]:
    """Gradients of input and weight; where there is a mask, of its weight and bias too."""
    grads: tuple[Tensor, ...]
    if mask_weight is None:
        grads = reference.dynamic_depthwise_conv2d_backward(grad_output, input, weight)
    else:
        grads = reference.rda_conv2d_backward(
            grad_output,
            input,
            weight,
            mask_weight,
            mask_bias,
            negative_slope=negative_slope,
            output_negative_slope=output_negative_slope,
        )
    return empty_result(input).copy_(grads[0]), *grads[1:]
