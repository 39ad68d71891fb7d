"""Checks of tensors and numbers at the boundary of public functions."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

SCALES = (2, 3, 4)


def check_image(name: str, image: Tensor, *, channels: int | None = 3, like: Tensor | None = None) -> None:
    """Raise unless ``image`` is a non-empty floating point batch (B, C, H, W).

    Args:
        name: The argument's name, for the message.
        image: The tensor to check.
        channels: The only accepted C; None accepts any.
        like: A tensor ``image`` meets first, usually a weight: device and dtype must be its own, except that
            autocast takes care of a differing dtype.

    Raises:
        TypeError: Not a tensor, not floating point, or not of the dtype of ``like``.
        ValueError: Wrong rank, channels or device, or height or width of zero.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(image).__name__}.")
    if not image.is_floating_point():
        raise TypeError(f"{name} must be a floating point tensor, got {image.dtype}.")
    expected = f"(B, {'C' if channels is None else channels}, H, W)"
    if image.dim() != 4 or (channels is not None and image.shape[1] != channels):
        raise ValueError(f"{name} must have shape {expected}, got {tuple(image.shape)}.")
    if image.shape[2] < 1 or image.shape[3] < 1:
        raise ValueError(f"{name} must be at least 1 pixel high and wide, got {tuple(image.shape)}.")
    if like is not None:
        check_like(name, image, like)


def check_like(name: str, tensor: Tensor, like: Tensor) -> None:
    """Raise unless ``tensor`` lives where ``like`` does, in its dtype (any floating dtype under autocast)."""
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, but must be on {like.device} as the weights are.")
    if tensor.dtype != like.dtype and not torch.is_autocast_enabled(tensor.device.type):
        raise TypeError(f"{name} is {tensor.dtype}, but must be {like.dtype} as the weights are.")


def check_int(name: str, value: int, *, minimum: int = 1) -> None:
    """Raise unless ``value`` is an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")


def check_scale(scale: int) -> None:
    """Raise unless ``scale`` is one of the enlargements that the networks know."""
    check_int("scale", scale)
    check_choice("scale", scale, SCALES)


def check_odd(name: str, value: int) -> None:
    """Raise unless ``value`` is a positive odd int."""
    check_int(name, value)
    if value % 2 == 0:
        raise ValueError(f"{name} must be odd, got {value}.")


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_range(name: str, value: tuple[float, float], *, minimum: float = -math.inf) -> tuple[float, float]:
    """Return ``value`` as (low, high) floats; raise unless both are finite and minimum <= low <= high."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (low, high), got {value!r}.")
    low, high = (float(bound) for bound in value)
    if not (math.isfinite(low) and math.isfinite(high) and minimum <= low <= high):
        at_least = f" of numbers from {minimum:g} up" if math.isfinite(minimum) else ""
        raise ValueError(f"{name} must be a finite range (low, high){at_least}, got {value!r}.")
    return low, high
