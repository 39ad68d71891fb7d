"""The pieces that the networks share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in the published networks


Module = TypeVar("Module", bound=nn.Module)


def to_channels_last(module: Module) -> Module:
    """Put 4-D parameters into the layout that convolutions are fastest in; returns ``module``."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def freeze(module: Module) -> Module:
    """Switch off gradients for good; returns ``module``."""
    return module.requires_grad_(False).eval()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Where operations run in the dtype of their arguments; the meta device knows no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def is_autocast(device: torch.device) -> bool:
    """Whether autocast chooses the dtype of operations there; the meta device knows none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def add(first: Tensor, second: Tensor) -> Tensor:
    """Return ``first + second``, in the memory of ``first`` where no gradient is recorded; it is of no use after."""
    return first + second if torch.is_grad_enabled() else first.add_(second)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """The one static convolution of MRDA: 3x3, zero padding 1, with bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


def initialize_he(layer: nn.Conv2d | nn.Linear, negative_slope: float = NEGATIVE_SLOPE) -> None:
    """Draw a layer's weights by He's rule, so that signals keep their size: of an activation with this slope after it.

    A slope of 1 is no activation. Biases become zero.
    """
    nn.init.kaiming_normal_(layer.weight, a=negative_slope)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
