# SPDX-License-Identifier: Apache-2.0
"""Checks of tensors, numbers and options at the boundary of public functions.

torch is imported where a tensor is checked, because the configuration, which has none, is checked before that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Scale = Literal[2, 3, 4]
"""Upscaling factor of a network."""
SCALES: tuple[Scale, ...] = get_args(Scale)


class _NotBool:
    """Makes pydantic refuse a bool, which it would otherwise read as 0 or 1."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Put the check before the field's own; called by pydantic alone, which this package does without."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(refuse_bool, handler(source))


def refuse_bool(value: object) -> object:
    """Raise ValueError for a boolean, and return any other value."""
    if isinstance(value, bool):
        raise ValueError(f"must be an integer, it was {value}")
    return value


NOT_BOOL = _NotBool()
"""Annotation of an integer in a configuration: YAML's ``yes`` and ``true`` are not numbers."""
Int = Annotated[int, NOT_BOOL]


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a floating point tensor."""
    import torch

    if not isinstance(value, torch.Tensor):
        if isinstance(value, torch.fx.Proxy):
            raise TypeError(
                f"{name} is a Proxy of torch.fx.symbolic_trace, which knows no sizes to check; "
                "trace the network with torch.export.export"
            )
        raise TypeError(f"{name} is {type(value).__name__}, but must be a torch.Tensor")
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}, but must be a floating point tensor")


def check_image(name: str, image: Tensor, *, channels: int | None = 3, like: Tensor | None = None) -> None:
    """Raise unless ``image`` is a floating point batch (B, C, H, W) of at least 1x1 pixels; B may be 0.

    Args:
        name: The argument's name, for the message.
        image: The tensor to check.
        channels: The only accepted C; None accepts any.
        like: The first tensor that ``image`` is computed with, usually a weight: device and dtype must be the same,
            except that under autocast the dtype may differ.

    Raises:
        TypeError: Not a tensor, not floating point, or not of the dtype of ``like``.
        ValueError: Wrong rank, channels or device, or height or width of zero.
    """
    from mrda_kernels.call import holds

    check_tensor(name, image)
    shape = tuple(image.shape)
    if image.dim() != 4 or (channels is not None and image.shape[1] != channels):
        expected = f"(B, {'C' if channels is None else channels}, H, W)"
        raise ValueError(f"{name} has shape {shape}, but must be {expected}")
    if not (holds(image.shape[2] >= 1) and holds(image.shape[3] >= 1)):
        raise ValueError(f"{name} has shape {shape}, but must be at least 1 pixel high and wide")
    if like is not None:
        check_like(name, image, like)


def check_pair(sr: Tensor, hr: Tensor) -> None:
    """Raise unless ``sr`` and ``hr`` are images (B, 3, H, W) of the same shape."""
    check_image("sr", sr)
    check_image("hr", hr)
    if sr.shape != hr.shape:
        raise ValueError(f"sr has shape {tuple(sr.shape)}, but must have that of hr, {tuple(hr.shape)}")


def check_like(name: str, tensor: Tensor, like: Tensor) -> None:
    """Raise unless ``tensor`` is on the device and in the dtype of ``like`` (any floating dtype under autocast)."""
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, but must be on {like.device} as the weights are")
    import torch

    if tensor.dtype != like.dtype and not torch.is_autocast_enabled(tensor.device.type):
        raise TypeError(f"{name} has dtype {tensor.dtype}, but must have {like.dtype} as the weights do")


def check_int(name: str, value: int, *, minimum: int = 1) -> None:
    """Raise unless ``value`` is an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}, but must be an int")
    if value < minimum:
        raise ValueError(f"{name} is {value}, but must be at least {minimum}")


def check_number(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite int or float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, but must be a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, but must be finite")


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite int or float above 0."""
    check_number(name, value)
    if value <= 0:
        raise ValueError(f"{name} is {value}, but must be positive")


def check_probability(name: str, value: float) -> None:
    """Raise unless ``value`` is an int or float from 0 to 1."""
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, but must be within 0 and 1")


def check_scale(scale: int) -> None:
    """Raise unless ``scale`` is one of `SCALES`."""
    check_int("scale", scale)
    check_choice("scale", scale, SCALES)


def check_odd(name: str, value: int) -> None:
    """Raise unless ``value`` is a positive odd int."""
    check_int(name, value)
    if value % 2 == 0:
        raise ValueError(f"{name} is {value}, but must be odd")


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, choices))}")


def check_range(name: str, value: tuple[float, float], *, minimum: float = -math.inf) -> None:
    """Raise unless ``value`` is a pair of finite numbers with minimum <= low <= high."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} is {value!r}, but must be a pair (low, high)")
    low, high = value
    check_number(f"{name}[0]", low)
    check_number(f"{name}[1]", high)
    if not minimum <= low <= high:
        at_least = f" with low at least {minimum:g}" if math.isfinite(minimum) else ""
        raise ValueError(f"{name} is {value!r}, but must be (low, high) in this order{at_least}")


def check_positive_range(name: str, value: tuple[float, float]) -> None:
    """Raise unless ``value`` is a pair of finite numbers with 0 < low <= high."""
    check_range(name, value)
    if value[0] <= 0:
        raise ValueError(f"{name} is {value!r}, but must be positive")


def check_weights(name: str, value: Sequence[float], length: int) -> None:
    """Raise unless ``value`` holds so many finite numbers of at least 0, not all of them 0."""
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} is {value!r}, but must be a list of {length} numbers")
    for index, weight in enumerate(value):
        check_number(f"{name}[{index}]", weight)
    if len(value) != length or min(value, default=0) < 0 or not sum(value):
        raise ValueError(f"{name} is {list(value)}, but must hold {length} numbers of at least 0, and not all 0")
