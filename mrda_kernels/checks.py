"""What a call of the operators must look like. One sentence for each way to get it wrong.

The operators call these on real and on fake tensors alike, so a wrong call fails the same way in eager mode,
in ``torch.compile`` and through ``torch.ops``.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_KERNEL_SIZE = 7


def require_tensors(**tensors: object) -> None:
    """Raise TypeError for anything that is not a dense tensor."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {type(value).__name__}, but must be a torch.Tensor")
        if value.layout != torch.strided:
            raise TypeError(f"{name} has layout {value.layout}, but must be torch.strided")


def require_numbers(**numbers: object) -> None:
    """Raise TypeError for anything that is not a real number; a tensor is none, since it would get no gradient."""
    for name, value in numbers.items():
        if not isinstance(value, Real | torch.SymFloat | torch.SymInt):
            raise TypeError(f"{name} is {type(value).__name__}, but must be a number")


def check_input_and_weight(input: Tensor, weight: Tensor) -> None:
    """Check what both operators share: ranks, sizes, dtypes, devices and the kernel size."""
    if input.ndim != 4:
        raise ValueError(f"input has shape {_shape(input)}, but must be (B, C, H, W)")
    if input.dtype not in DTYPES:
        raise TypeError(f"input has dtype {input.dtype}, but must be float32, float64, bfloat16 or float16")
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"weight has shape {_shape(weight)}, but must be (B, C, K, K)")
    if weight.shape[:2] != input.shape[:2]:
        raise ValueError(
            f"weight has shape {_shape(weight)}, but its first two sizes must be input's (B, C) = "
            f"({input.shape[0]}, {input.shape[1]})"
        )
    kernel_size = weight.shape[3]
    if kernel_size % 2 == 0 or kernel_size > MAX_KERNEL_SIZE:
        raise ValueError(f"weight has a kernel size K of {kernel_size}, but K must be 1, 3, 5 or 7")
    _same_dtype_and_device(input, weight=weight)


def check_mask(input: Tensor, mask_weight: Tensor, mask_bias: Tensor | None) -> None:
    """Check the 1x1 convolution that makes the modulation map."""
    channels = input.shape[1]
    if mask_weight.ndim != 4 or mask_weight.shape[1] != channels or mask_weight.shape[2:] != (1, 1):
        raise ValueError(
            f"mask_weight has shape {_shape(mask_weight)}, but must be (M, C, 1, 1) with input's C = {channels}"
        )
    masks = mask_weight.shape[0]
    if masks not in (1, channels):
        raise ValueError(f"mask_weight makes M = {masks} masks, but M must be 1 or input's C = {channels}")
    _same_dtype_and_device(input, mask_weight=mask_weight)
    if mask_bias is not None:
        if mask_bias.ndim != 1 or mask_bias.shape[0] != masks:
            raise ValueError(f"mask_bias has shape {_shape(mask_bias)}, but must be (M,) = ({masks},)")
        _same_dtype_and_device(input, mask_bias=mask_bias)


def check_slopes(**slopes: float | None) -> None:
    """Check the slopes of the activations."""
    for name, value in slopes.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} is {value}, but must be a finite number")


def check_grad_output(input: Tensor, grad_output: Tensor) -> None:
    """Check what a backward operator gets from above."""
    if grad_output.shape != input.shape:
        raise ValueError(f"grad_output has shape {_shape(grad_output)}, but must have input's, {_shape(input)}")
    _same_dtype_and_device(input, grad_output=grad_output)


def _same_dtype_and_device(input: Tensor, **tensors: Tensor) -> None:
    for name, value in tensors.items():
        if value.dtype != input.dtype:
            raise TypeError(f"{name} has dtype {value.dtype}, but must have input's, {input.dtype}")
        if value.device != input.device:
            raise ValueError(f"{name} is on {value.device}, but must be on input's device, {input.device}")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
