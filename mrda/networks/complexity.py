# SPDX-License-Identifier: Apache-2.0
"""The cost of a network: parameters, and multiply-adds of one forward pass, as the published totals count them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mrda.core.checks import check_int
from mrda.networks.den import DEN
from mrda.networks.mln import MLN
from mrda.networks.mrda import MRDAOracle, MRDATeacher
from mrda.networks.rda_conv import PredictingConv, RDAConv
from mrda.networks.rdan import RDAN
from mrda.networks.registry import Network
from mrda.networks.trunk import Trunk
from mrda.networks.upscaler import PixelShuffleUpscaler

LR_HEIGHT, LR_WIDTH = 180, 320  # the LR image that published costs are given for
_LONGEST_SIDE = 2**16  # far below the sizes at which torch can no longer count a tensor's bytes

# A published trunk subtracts and adds the mean colour by fixed 1x1 convolutions of 3x3 weights and 3 biases each. Ours
# uses a buffer, which no hook sees.
_MEAN_SHIFT_PARAMETERS = 2 * (9 + 3)
_MEAN_SHIFT_MACS = 9  # per pixel


@dataclass(frozen=True)
class Complexity:
    """The cost of a network. A multiply-add is one multiplication and one addition; those of biases do not count."""

    parameters: int
    """Numbers in the published state dict that inference uses, with the 24 fixed ones of the mean shift if it has one;
    statistics of BatchNorm do not count."""
    parameters_trainable: int
    """Trainable parameters."""
    mult_adds: int
    """Multiply-adds for one image: the sum of the three parts below."""
    mult_adds_static_conv: int
    """Share of convolutions with learned or fixed weights, including the masks' and the mean shift's."""
    mult_adds_dynamic_conv: int
    """Share of convolutions with predicted weights."""
    mult_adds_linear: int
    """Share of linear layers, including those that predict the weights."""
    mult_adds_executed: int
    """Multiply-adds for one image at inference, when the upscaler runs as one convolution."""


def complexity(network: Network | RDAN | DEN, height: int = LR_HEIGHT, width: int = LR_WIDTH) -> Complexity:
    """Count parameters, and multiply-adds for one LR image.

    A copy of the network runs on torch's meta device, hence without data; ``network`` may be there itself.

    Args:
        network: Any network of the method, or an RDAN or DEN alone.
        height: Height of the LR image, or of a DEN's input.
        width: Its width.

    Raises:
        TypeError: ``network`` is another object.
        ValueError: ``height`` or ``width`` is below 1 or above 65536.
    """
    for name, side in (("height", height), ("width", width)):
        check_int(name, side)
        if side > _LONGEST_SIDE:
            raise ValueError(f"{name} is {side}, but must be at most {_LONGEST_SIDE}")
    if not isinstance(network, Network | RDAN | DEN):
        raise TypeError(f"network is {type(network).__name__}, but must be a network of the method")
    with torch.device("meta"), torch.no_grad():
        copy = type(network)(**network.hyperparameters).eval()
        counts = {"static_conv": 0, "dynamic_conv": 0, "linear": 0}
        upscalers = [module for module in copy.modules() if isinstance(module, PixelShuffleUpscaler)]
        chains: list[int] = []
        for upscaler in upscalers:
            upscaler.register_forward_pre_hook(lambda *_: chains.append(-counts["static_conv"]))
            upscaler.register_forward_hook(lambda *_: chains.append(counts["static_conv"]))
        masks = {module.mask for module in copy.modules() if isinstance(module, RDAConv)}
        for module in copy.modules():
            if module not in masks:  # counted with their conv, into which the operator fuses them
                module.register_forward_hook(_counter(counts))
        copy(*_inputs(copy, height, width))
        executed = sum(counts.values())
        if min(height, width) > 1:  # no image of a single row or column is upscaled by one convolution
            executed += sum(upscaler.collapsed_mult_adds(height, width) for upscaler in upscalers) - sum(chains)
    trainable = sum(parameter.numel() for parameter in copy.parameters())
    fixed = 0
    if any(isinstance(module, Trunk) for module in copy.modules()):
        fixed = _MEAN_SHIFT_PARAMETERS
        scale = network.hyperparameters["scale"]
        counts["static_conv"] += _MEAN_SHIFT_MACS * height * width * (1 + scale * scale)
    return Complexity(
        parameters=trainable + fixed,
        parameters_trainable=trainable,
        mult_adds=sum(counts.values()),
        **{f"mult_adds_{part}": count for part, count in counts.items()},
        # The mean shift is an addition, and no convolution as in the published networks.
        mult_adds_executed=executed,
    )


def _counter(counts: dict[str, int]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    """Build a forward hook that adds the multiply-adds of a module's own arithmetic to ``counts``."""

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counts["static_conv"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            counts["linear"] += output.numel() * module.in_features
        elif isinstance(module, PredictingConv):
            counts["dynamic_conv"] += output.numel() * module.kernel_size**2
            if isinstance(module, RDAConv):
                batch, _, height, width = output.shape
                counts["static_conv"] += batch * height * width * module.mask.weight.numel()

    return count


def _inputs(network: nn.Module, height: int, width: int) -> tuple[Tensor, ...]:
    """Build the inputs of ``network`` for one image, on the default device."""
    lr = torch.empty(1, 3, height, width)
    match network:
        case MLN():
            return lr, torch.empty(1, 3, network.scale * height, network.scale * width)
        case MRDATeacher():
            return lr, torch.empty(1, network.den.in_channels, height, width)
        case MRDAOracle():
            return lr, torch.empty(1, network.den.blur_size, network.den.blur_size)
        case RDAN():
            return lr, torch.empty(1, network.idr_dim)
        case DEN():
            return (torch.empty(1, network.in_channels, height, width),)
    return (lr,)
