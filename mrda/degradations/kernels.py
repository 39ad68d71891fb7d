# SPDX-License-Identifier: Apache-2.0
"""Gaussian blur kernels (paper, section IV-A)."""

from __future__ import annotations

import torch
from torch import Tensor

from mrda.core.checks import check_number, check_odd, check_tensor
from mrda.options.classic import KERNEL_SIZE

# Smallest standard deviation, used in place of 0: the weight of a neighbouring pixel, exp(-0.5/0.02^2), is 0 in
# float64, and the rounding error of a rotated axis (1e-15 px) changes no weight.
_NARROWEST = 0.02


def isotropic_gaussian(sigma: float | Tensor, size: int = KERNEL_SIZE) -> Tensor:
    """Return Gaussian kernels that sum to 1.

    Args:
        sigma: Standard deviation in HR pixels, >= 0; below 0.02 it counts as 0.02, which gives a delta.
        size: Odd side of the kernel.

    Returns:
        (size, size) in float32 for a float; (B, size, size) in the dtype of ``sigma`` for a tensor (B,).

    Raises:
        TypeError: ``sigma`` is neither a number nor a floating point tensor, or ``size`` is not an int.
        ValueError: ``sigma`` is negative or not finite or not one-dimensional, or ``size`` is not odd.
    """
    width = _check_widths("sigma", sigma)
    kernels = gaussian_kernels(width, width, torch.zeros_like(width), size)
    return kernels if isinstance(sigma, Tensor) else kernels[0].float()


def anisotropic_gaussian(
    l1: float | Tensor, l2: float | Tensor, theta: float | Tensor, size: int = KERNEL_SIZE
) -> Tensor:
    """Return rotated Gaussian kernels that sum to 1.

    The covariance is R diag(l1^2, l2^2) R^T with R = [[cos, -sin], [sin, cos]], x along columns and y along
    rows (downwards): at ``theta`` 0 the axis of ``l1`` lies along a row of the kernel.

    Args:
        l1: Standard deviation along the first axis, in HR pixels, >= 0; below 0.02 it counts as 0.02.
        l2: Standard deviation along the second axis, likewise.
        theta: Angle from the x to the first axis, in radians.
        size: Odd side of the kernel.

    Returns:
        (size, size) in float32 if all three are floats; otherwise (B, size, size) in the dtype of the
        tensors (B,), where a float applies to all B.

    Raises:
        TypeError: An argument is neither a number nor a floating point tensor, the tensors differ in dtype, or
            ``size`` is not an int.
        ValueError: A width is negative, a number is not finite, a tensor is not one-dimensional, the tensors
            differ in length or device, or ``size`` is not odd.
    """
    tensors = [value for value in (l1, l2, theta) if isinstance(value, Tensor)]
    if len({value.dtype for value in tensors}) > 1:
        dtypes = ", ".join(str(value.dtype) for value in tensors)
        raise TypeError(f"l1, l2 and theta have dtypes {dtypes}, but must have the same")
    if len({value.device for value in tensors}) > 1:
        devices = ", ".join(str(value.device) for value in tensors)
        raise ValueError(f"l1, l2 and theta are on {devices}, but must be on one device")
    widths1, widths2 = _check_widths("l1", l1), _check_widths("l2", l2)
    angles = _check_vector("theta", theta)
    if len({value.shape[0] for value in tensors}) > 1:
        lengths = [value.shape[0] if isinstance(value, Tensor) else 1 for value in (l1, l2, theta)]
        raise ValueError(f"l1, l2 and theta have lengths {lengths}, but must have the same")
    if not tensors:
        return gaussian_kernels(widths1, widths2, angles, size)[0].float()
    like = tensors[0]
    return gaussian_kernels(widths1.to(like), widths2.to(like), angles.to(like), size)


def gaussian_kernels(l1: Tensor, l2: Tensor, theta: Tensor, size: int) -> Tensor:
    """Return kernels (B, size, size) for tensors (B,) or (1,), whose values are not checked."""
    check_odd("size", size)
    dtype = l1.dtype
    axis = torch.arange(size, dtype=torch.float64, device=l1.device) - size // 2
    y, x = axis[:, None], axis[None, :]
    width1, width2 = (width.double().clamp(min=_NARROWEST)[:, None, None] for width in (l1, l2))
    cos, sin = (function(theta.double())[:, None, None] for function in (torch.cos, torch.sin))
    kernels = torch.exp(-0.5 * (((x * cos + y * sin) / width1) ** 2 + ((y * cos - x * sin) / width2) ** 2))
    return (kernels / kernels.sum(dim=(1, 2), keepdim=True)).to(dtype)


def _check_vector(name: str, value: float | Tensor) -> Tensor:
    """Return ``value`` as a tensor (B,), float64 for a number; raise unless it is finite."""
    if isinstance(value, Tensor):
        check_tensor(name, value)
        if value.dim() != 1:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, but must be (B,), or a number")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} is {value.tolist()}, but must be finite")
        return value
    check_number(name, value)
    return torch.tensor([value], dtype=torch.float64)


def _check_widths(name: str, value: float | Tensor) -> Tensor:
    widths = _check_vector(name, value)
    if (widths < 0).any():
        raise ValueError(f"{name} is {widths.tolist()}, but must be at least 0")
    return widths
