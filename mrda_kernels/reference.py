"""The operators in plain PyTorch: the one oracle for every test, document and benchmark.

Everything is computed in float32 (float64 for float64 input) and rounded once, at the end. Each function is
differentiable any number of times; the forward ones work under ``torch.func`` transforms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def _without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Keep a surrounding autocast region from casting what is computed inside, too."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device_type = cast(Tensor, args[0]).device.type
        if not torch.amp.is_autocast_available(device_type):
            return function(*args, **kwargs)
        with torch.autocast(device_type, enabled=False):
            return function(*args, **kwargs)

    return wrapper


@_without_autocast
def dynamic_depthwise_conv2d(input: Tensor, weight: Tensor) -> Tensor:
    """See :func:`mrda_kernels.dynamic_depthwise_conv2d`; here in eager PyTorch."""
    dtype = accumulation_dtype(input.dtype)
    return _depthwise(input.to(dtype), weight.to(dtype)).to(input.dtype)


@_without_autocast
def rda_conv2d(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None = None,
    *,
    negative_slope: float = 0.1,
    output_negative_slope: float | None = None,
) -> Tensor:
    """See :func:`mrda_kernels.rda_conv2d`; here in eager PyTorch."""
    dtype = accumulation_dtype(input.dtype)
    x = input.to(dtype)
    features = F.leaky_relu(_depthwise(x, weight.to(dtype)), negative_slope)
    mask = _modulation(x, mask_weight.to(dtype), None if mask_bias is None else mask_bias.to(dtype))
    out = features * mask + x
    if output_negative_slope is not None:
        out = F.leaky_relu(out, output_negative_slope)
    return out.to(input.dtype)


@_without_autocast
def dynamic_depthwise_conv2d_backward(grad_output: Tensor, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`dynamic_depthwise_conv2d` with respect to ``input`` and ``weight``."""
    dtype = accumulation_dtype(input.dtype)
    grads = _depthwise_backward(grad_output.to(dtype), input.to(dtype), weight.to(dtype))
    return grads[0].to(input.dtype), grads[1].to(input.dtype)


@_without_autocast
def rda_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None = None,
    *,
    negative_slope: float = 0.1,
    output_negative_slope: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`rda_conv2d` with respect to input, weight, mask_weight and mask_bias, by hand."""
    dtype = accumulation_dtype(input.dtype)
    x, kernels, mixing, grad = (t.to(dtype) for t in (input, weight, mask_weight, grad_output))
    z = _depthwise(x, kernels)
    features = F.leaky_relu(z, negative_slope)
    mask = _modulation(x, mixing, None if mask_bias is None else mask_bias.to(dtype))
    if output_negative_slope is not None:
        grad = _leaky_relu_backward(grad, features * mask + x, output_negative_slope)

    grad_x, grad_kernels = _depthwise_backward(_leaky_relu_backward(grad * mask, z, negative_slope), x, kernels)
    grad_mask = grad * features
    if mixing.shape[0] == 1:
        grad_mask = grad_mask.sum(dim=1, keepdim=True)
    grad_logit = grad_mask * mask * (1 - mask)
    grad_x = grad_x + grad + torch.einsum("mc,bmhw->bchw", mixing.flatten(1), grad_logit)
    grad_mixing = torch.einsum("bmhw,bchw->mc", grad_logit, x)[..., None, None]
    grads = (grad_x, grad_kernels, grad_mixing, grad_logit.sum(dim=(0, 2, 3)))
    return tuple(g.to(input.dtype) for g in grads)  # type: ignore[return-value]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _depthwise(x: Tensor, kernels: Tensor) -> Tensor:
    """Correlate every plane of x (B, C, H, W) with its own kernel of (B, C, K, K)."""
    if x.numel() == 0:  # conv2d refuses a group count of 0
        return x * kernels.sum()
    batch, channels, height, width = x.shape
    size = kernels.shape[-1]
    planes = x.reshape(1, batch * channels, height, width)
    filters = kernels.reshape(batch * channels, 1, size, size)
    out = F.conv2d(planes, filters, padding=size // 2, groups=batch * channels)
    return out.reshape(batch, channels, height, width)


def _depthwise_backward(grad_z: Tensor, x: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """By correlation with the turned kernels, and tap by tap.

    Not by torch.nn.grad, whose own derivatives do not take the symbolic sizes of
    ``torch.compile(dynamic=True)``.
    """
    grad_x = _depthwise(grad_z, kernels.flip(2, 3))
    size, (height, width) = kernels.shape[-1], x.shape[2:]
    padded = F.pad(x, [size // 2] * 4)
    taps = [
        (padded[:, :, i : i + height, j : j + width] * grad_z).sum(dim=(2, 3)) for i in range(size) for j in range(size)
    ]
    return grad_x, torch.stack(taps, dim=-1).reshape(kernels.shape)


def _modulation(x: Tensor, mask_weight: Tensor, mask_bias: Tensor | None) -> Tensor:
    # not by conv2d, which cuDNN computes in TF32 unless told otherwise
    logits = torch.einsum("bchw,mc->bmhw", x, mask_weight.flatten(1))
    return torch.sigmoid(logits if mask_bias is None else logits + mask_bias[:, None, None])


def _leaky_relu_backward(grad: Tensor, x: Tensor, negative_slope: float) -> Tensor:
    return torch.where(x > 0, grad, grad * negative_slope)
