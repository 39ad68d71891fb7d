# SPDX-License-Identifier: Apache-2.0
"""Layers, initialisation and small helpers that the networks share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mrda_kernels
from mrda_kernels.call import functorch_is_active

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

    Then the weights can be used without a call. Hooks, such as those of pruning, the layers of adapters and of
    quantization, and settings that somebody has changed want a call.
    """
    return (
        type(layer).forward is kind.forward
        and "forward" not in vars(layer)
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and is_as_built(layer)
    )


def is_as_built(layer: nn.Module) -> bool:
    """Return False for a convolution or an activation whose settings somebody has changed."""
    if isinstance(layer, nn.Conv2d):
        same = tuple(size // 2 for size in layer.kernel_size)
        return (layer.padding_mode, layer.padding, layer.dilation, layer.groups) == ("zeros", same, (1, 1), 1)
    return not isinstance(layer, nn.LeakyReLU) or layer.negative_slope == NEGATIVE_SLOPE


def is_autocast(device: torch.device) -> bool:
    """Return True if autocast chooses the dtype of operations on ``device``; on the meta device it never does."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Context in which operations on ``device`` run in the dtype of their arguments."""
    return torch.autocast(device.type, enabled=False) if is_autocast(device) else nullcontext()


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Build the static convolution of all networks: 3x3, zero padding 1, with bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


class FrozenBatchNorm(nn.Module):
    """BatchNorm of maps (B, C, H, W) by fixed statistics, which belong to the network.

    Args:
        num_feat: Channels C.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps = 1e-5

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(num_feat)), nn.Parameter(torch.zeros(num_feat))
        self.register_buffer("running_mean", torch.zeros(num_feat))
        self.register_buffer("running_var", torch.ones(num_feat))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ResidualBlock(nn.Module):
    """``x + conv(LeakyReLU(conv(x)))``.

    Args:
        num_feat: Channels C.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(num_feat, num_feat), nn.LeakyReLU(NEGATIVE_SLOPE), conv3x3(num_feat, num_feat)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C, H, W) of features ``x`` of that shape."""
        return x + self.body(x)


def is_eager() -> bool:
    """Return True unless torch compiles a program or torch.func transforms one, because both know torch's operators."""
    return not (torch.compiler.is_compiling() or functorch_is_active())


def is_for_cpu_kernels(features: Tensor) -> bool:
    """Return True if the CPU kernels of `mrda_kernels` for 3x3 convolutions, which train too, may take features.

    Compiled programs and transforms of torch.func keep torch's convolutions, whose derivatives they know.
    """
    if features.device.type != "cpu" or features.dtype != torch.float32 or is_autocast(features.device):
        return False
    return is_eager()


def is_conv3x3(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return True for a convolution of the size and the stride of :func:`conv3x3`'s default."""
    return isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.stride) == ((3, 3), (1, 1))


def convolve(conv: nn.Conv2d, features: Tensor, *, skip: Tensor | None = None) -> Tensor:
    """Apply a 3x3 convolution of :func:`conv3x3` to features (B, C, H, W), and add ``skip``; fast on a CPU."""
    if is_for_cpu_kernels(features) and is_untouched(conv, nn.Conv2d):
        return mrda_kernels.conv3x3(features, conv.weight, conv.bias, skip=skip)
    out = conv(features)
    return out if skip is None else out + skip


def run_chain(layers: nn.Module, x: Tensor) -> Tensor:
    """Call ``layers``; if they are a plain sequence, their 3x3 convolutions of stride 1 by :func:`convolve`."""
    if not isinstance(layers, nn.Sequential) or not is_for_cpu_kernels(x) or not is_untouched(layers, nn.Sequential):
        return layers(x)
    for layer in layers:
        if is_conv3x3(layer):
            x = convolve(layer, x)
        else:
            x = layer(x)
    return x


def initialize_he(layer: nn.Conv2d | nn.Linear, negative_slope: float = NEGATIVE_SLOPE) -> None:
    """Draw a layer's weights by He's rule, so that signals keep their size; biases become zero.

    Args:
        layer: The layer.
        negative_slope: Slope of the LeakyReLU that follows the layer; 1 if none does.
    """
    nn.init.kaiming_normal_(layer.weight, a=negative_slope)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
