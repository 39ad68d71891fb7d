# SPDX-License-Identifier: Apache-2.0
"""The operators in plain PyTorch: the one oracle for every test, document and benchmark.

Everything is computed in float32 (float64 for float64 input) and rounded once, at the end. Each function is
differentiable any number of times; the forward works under ``torch.func`` transforms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda_kernels.call import RdaCall
from mrda_kernels.conv3x3_call import Conv3x3Call

P = ParamSpec("P")
R = TypeVar("R")


def rda_conv2d(*arguments: Any, **options: Any) -> Tensor:
    """Compute :func:`mrda_kernels.rda_conv2d`, of the same arguments, in eager PyTorch; nothing is checked."""
    return forward(RdaCall(*arguments, **options))


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Keep a surrounding autocast region from casting what is computed inside, too."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch._C._is_any_autocast_enabled():
            return function(*args, **kwargs)
        device_type = next(a.input.device.type for a in args if isinstance(a, RdaCall | Conv3x3Call))
        if not torch.amp.is_autocast_available(device_type):
            return function(*args, **kwargs)
        with torch.autocast(device_type, enabled=False):
            return function(*args, **kwargs)

    return wrapper


@without_autocast
def forward(call: RdaCall) -> Tensor:
    """Return the result of a call, (B, C, H, W)."""
    x, kernels, mask_weight, mask_bias = _widened(call)
    out = F.leaky_relu(_depthwise(x, kernels), call.negative_slope)
    if mask_weight is None:
        return out.to(call.input.dtype)
    out = out * _mask(x, mask_weight, mask_bias) + x
    if call.output_negative_slope is not None:
        out = F.leaky_relu(out, call.output_negative_slope)
    return out.to(call.input.dtype)


@without_autocast
def backward(grad_output: Tensor, call: RdaCall) -> tuple[Tensor, ...]:
    """Return the gradients of a call by hand: of input and weight, and with a mask of mask_weight and mask_bias."""
    x, kernels, mask_weight, mask_bias = _widened(call)
    grad = grad_output.to(call.accumulation_dtype)
    z = _depthwise(x, kernels)
    if mask_weight is None:
        grad = leaky_relu_backward(grad, z, call.negative_slope)
        return tuple(g.to(call.input.dtype) for g in _depthwise_backward(grad, x, kernels))

    features = F.leaky_relu(z, call.negative_slope)
    mask = _mask(x, mask_weight, mask_bias)
    if call.output_negative_slope is not None:
        grad = leaky_relu_backward(grad, features * mask + x, call.output_negative_slope)

    grad_x, grad_kernels = _depthwise_backward(leaky_relu_backward(grad * mask, z, call.negative_slope), x, kernels)
    grad_mask = grad * features
    if call.masks == 1:
        grad_mask = grad_mask.sum(dim=1, keepdim=True)
    grad_mask_logits = grad_mask * mask * (1 - mask)
    grad_x = grad_x + grad + torch.einsum("mc,bmhw->bchw", mask_weight.flatten(1), grad_mask_logits)
    grad_mask_weight = torch.einsum("bmhw,bchw->mc", grad_mask_logits, x)[..., None, None]
    grads = (grad_x, grad_kernels, grad_mask_weight, grad_mask_logits.sum(dim=(0, 2, 3)))
    return tuple(g.to(call.input.dtype) for g in grads)


@without_autocast
def conv3x3(call: Conv3x3Call) -> Tensor:
    """Return the result of half an RDA block, (B, C_out, H, W)."""
    like = call.like_input
    dtype = like.accumulation_dtype
    features = (call.input if call.steered is None else forward(call.steered)).to(dtype)
    bias = None if call.conv_bias is None else call.conv_bias.to(dtype)
    out = F.conv2d(features, call.conv_weight.to(dtype), bias, padding=1)
    if call.skip is not None:
        out = out + call.skip.to(dtype)
    if call.output_negative_slope is not None:
        out = F.leaky_relu(out, call.output_negative_slope)
    return out.to(like.input.dtype).contiguous(memory_format=like.memory_format)


def _widened(call: RdaCall) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return a call's tensors in the accumulation dtype."""
    dtype = call.accumulation_dtype
    input, weight, mask_weight, mask_bias = call[:4]
    return (
        input.to(dtype),
        weight.to(dtype),
        None if mask_weight is None else mask_weight.to(dtype),
        None if mask_bias is None else mask_bias.to(dtype),
    )


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
    """Return the gradients of ``_depthwise``: by correlation with the rotated kernels, and tap by tap.

    torch.nn.grad would not do: its own derivatives do not take the symbolic sizes of ``torch.compile(dynamic=True)``.
    """
    grad_x = _depthwise(grad_z, kernels.flip(2, 3))
    size, (height, width) = kernels.shape[-1], x.shape[2:]
    padded = F.pad(x, [size // 2] * 4)
    taps = [
        (padded[:, :, i : i + height, j : j + width] * grad_z).sum(dim=(2, 3)) for i in range(size) for j in range(size)
    ]
    return grad_x, torch.stack(taps, dim=-1).reshape(kernels.shape)


def _mask(x: Tensor, mask_weight: Tensor, mask_bias: Tensor | None) -> Tensor:
    # not by conv2d, which cuDNN computes in TF32 unless told otherwise
    mask_logits = torch.einsum("bchw,mc->bmhw", x, mask_weight.flatten(1))
    return torch.sigmoid(mask_logits if mask_bias is None else mask_logits + mask_bias[:, None, None])


def leaky_relu_backward(grad: Tensor, x: Tensor, negative_slope: float) -> Tensor:
    """Return the gradient of a LeakyReLU at ``x`` times ``grad``; at exactly 0 it is the slope."""
    return torch.where(x > 0, grad, grad * negative_slope)
