# SPDX-License-Identifier: Apache-2.0
"""Layers, initialisation and small helpers that the networks share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in the published networks


Module = TypeVar("Module", bound=nn.Module)


def to_channels_last(module: Module) -> Module:
    """Convert 4-D parameters to channels_last, in which convolutions run fastest; returns ``module``."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def freeze(module: Module) -> Module:
    """Set evaluation mode and stop recording gradients for the parameters; returns ``module``."""
    return module.requires_grad_(False).eval()


def any_tensor(module: nn.Module) -> Tensor:
    """Return a tensor that has the device and the dtype of a network: its first parameter, or its first buffer.

    Layers may have been replaced by ones of other libraries, whose attribute ``weight`` can be anything; and the
    replicas that DataParallel makes have no parameters, but tensors in their place.
    """
    for kind in ("_parameters", "_former_parameters", "_buffers"):
        for part in module.modules():
            for tensor in getattr(part, kind, {}).values():
                if tensor is not None:
                    return tensor
    raise ValueError(f"{type(module).__name__} has no parameters")


def is_untouched(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Return True if a call of ``layer`` does what ``kind`` does with ``weight`` and ``bias``, and nothing else.

    Then the weights can be used without a call. Hooks, such as those of pruning, and the layers of adapters and of
    quantization want to be called.
    """
    return (
        type(layer).forward is kind.forward
        and "forward" not in vars(layer)
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
    )


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
