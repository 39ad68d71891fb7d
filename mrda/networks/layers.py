# SPDX-License-Identifier: Apache-2.0
"""Layers, initialisation and small helpers that the networks share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in the published networks


Module = TypeVar("Module", bound=nn.Module)


def to_channels_last(module: Module) -> Module:
    """Convert 4-D parameters to channels_last, in which convolutions run fastest; returns ``module``."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def freeze(module: Module) -> Module:
    """Set evaluation mode and stop recording gradients for the parameters; returns ``module``."""
    return module.requires_grad_(False).eval()


def is_autocast(device: torch.device) -> bool:
    """Return True if autocast chooses the dtype of operations on ``device``; on the meta device it never does."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Context in which operations on ``device`` run in the dtype of their arguments."""
    return torch.autocast(device.type, enabled=False) if is_autocast(device) else nullcontext()


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Build the static convolution of all networks: 3x3, zero padding 1, with bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


def initialize_he(layer: nn.Conv2d | nn.Linear, negative_slope: float = NEGATIVE_SLOPE) -> None:
    """Draw a layer's weights by He's rule, so that signals keep their size; biases become zero.

    Args:
        layer: The layer.
        negative_slope: Slope of the LeakyReLU that follows the layer; 1 if none does.
    """
    nn.init.kaiming_normal_(layer.weight, a=negative_slope)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
