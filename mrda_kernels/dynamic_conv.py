"""Per-sample depthwise convolution: the bare dynamic convolution of DASR, KDSR, DDF and MRDA (Eq. 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from mrda_kernels import checks, dispatch, ops, reference  # noqa: F401  (ops registers the operators)
from mrda_kernels.transforms import autocast, functorch_is_active

__all__ = ["dynamic_depthwise_conv2d"]


def dynamic_depthwise_conv2d(input: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """Filter each channel of each sample with its own kernel; correlation, zero padding K // 2.

    Equivalent to ``conv2d(input.view(1, B * C, H, W), weight.view(B * C, 1, K, K), padding=K // 2, groups=B * C)``,
    viewed as (B, C, H, W).

    Args:
        input: (B, C, H, W); float32, float64, bfloat16 or float16; any strides.
        weight: (B, C, K, K), K one of 1, 3, 5, 7.
        backend: as for :func:`mrda_kernels.rda_conv2d`.

    Returns:
        (B, C, H, W), with the dtype, rounding, memory format and gradients of :func:`mrda_kernels.rda_conv2d`.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`mrda_kernels.rda_conv2d`.
    """
    checks.require_tensors(input=input, weight=weight)
    input, weight = autocast(input, weight)
    if functorch_is_active():
        checks.check_input_and_weight(input, weight)
        return reference.dynamic_depthwise_conv2d(input, weight)
    return torch.ops.mrda_kernels.dynamic_depthwise_conv2d(input, weight, dispatch.check_name(backend))
