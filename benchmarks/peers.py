# SPDX-License-Identifier: Apache-2.0
"""The providers: other ways to compute `mrda_kernels.rda_conv2d` in PyTorch, and our own backends.

The peers take input (B, C, H, W), weight (B, C, K, K), mask_weight (M, C, 1, 1) and mask_bias (M,), compute in the
dtype of their arguments, and check nothing.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Arguments, Candidate, Operator, call
from benchmarks.records import OURS, Setting
from mrda.networks.layers import is_autocast
from mrda.networks.rda_conv import DASRConv, KDSRConv, PredictingConv, RDAConv
from mrda_kernels import dispatch

Transform = Callable[[Operator], Operator]  # none, or torch.compile


def released(
    input: Tensor, weight: Tensor, mask_weight: Tensor, mask_bias: Tensor, negative_slope: float = 0.1
) -> Tensor:
    """The way of the paper's released network: samples and channels as groups of one conv2d, then op by op."""
    batch, channels, height, width = input.shape
    size = weight.shape[-1]
    planes = input.reshape(1, batch * channels, height, width)
    filters = weight.reshape(batch * channels, 1, size, size)
    features = F.conv2d(planes, filters, padding=size // 2, groups=batch * channels)
    features = F.leaky_relu(features, negative_slope, inplace=True).reshape(input.shape)
    return features * _mask(input, mask_weight, mask_bias) + input


def shift_add(
    input: Tensor, weight: Tensor, mask_weight: Tensor, mask_bias: Tensor, negative_slope: float = 0.1
) -> Tensor:
    """The dynamic convolution as a sum of K * K shifted products, which a compiler can fuse."""
    height, width = input.shape[-2:]
    size = weight.shape[-1]
    padded = F.pad(input, [size // 2] * 4)
    features = torch.zeros_like(input)
    for row in range(size):
        for column in range(size):
            shifted = padded[..., row : row + height, column : column + width]
            features = features + shifted * weight[:, :, row, column, None, None]
    features = F.leaky_relu(features, negative_slope)
    return features * _mask(input, mask_weight, mask_bias) + input


def _mask(input: Tensor, mask_weight: Tensor, mask_bias: Tensor) -> Tensor:
    return torch.sigmoid(F.conv2d(input, mask_weight, mask_bias))


class PeerConv(RDAConv):
    """An RDA conv with one of the peers in place of the operator, and a LeakyReLU of its own."""

    operator: Operator

    def forward(self, features: Tensor, idr: Tensor, *, output_negative_slope: float) -> Tensor:
        """Return the modulated features."""
        weights = [self.predict_kernels(idr), self.mask.weight, self.mask.bias]
        if is_autocast(features.device):
            weights = [weight.to(features.dtype) for weight in weights]
        out = self.operator(features, *weights, negative_slope=self.dynamic_slope)
        return F.leaky_relu(out, output_negative_slope)


def use_peer(network: nn.Module, operator: Operator) -> None:
    """Let the RDA convs of a network compute by a peer."""
    for module in network.modules():
        if isinstance(module, RDAConv):
            module.__class__ = PeerConv
            module.operator = operator


def grouped(conv: PredictingConv, features: Tensor, idr: Tensor) -> Tensor:
    """The dynamic convolution of DASR and KDSR by their released way: samples and channels as groups of one conv2d."""
    weight = conv.predict_kernels(idr).flatten(0, 1)[:, None]
    planes = features.reshape(1, len(weight), *features.shape[2:])
    out = F.conv2d(planes, weight, padding=conv.kernel_size // 2, groups=len(weight))
    return F.leaky_relu(out, conv.dynamic_slope, inplace=True).reshape(features.shape)


def attended(conv: DASRConv, features: Tensor, idr: Tensor, *, output_negative_slope: float) -> Tensor:
    """DASR's convolution with its attention, op by op."""
    out = conv.project(grouped(conv, features, idr)) + features * conv.attention(idr)[:, :, None, None]
    return F.leaky_relu(out, output_negative_slope, inplace=True)


def use_groups(network: nn.Module) -> nn.Module:
    """Let a network of DASR or KDSR compute so; returns it."""
    for conv in network.modules():
        if isinstance(conv, DASRConv | KDSRConv):
            conv.forward = partial(attended if isinstance(conv, DASRConv) else grouped, conv)  # type: ignore
    return network


def providers(
    setting: Setting,
    arguments: Arguments,
    peer: Callable[[Operator, Transform], Operator],
    ours: Callable[[str | None], Operator],
) -> dict[str, Candidate]:
    """The providers of a setting's op, by name; nothing is compiled yet.

    `peer` makes the op from one of the peers, with the transform on the part to compile; `ours` makes it on a backend
    of mrda_kernels, or on None with the one that `mrda_kernels.dispatch` picks.
    """
    # Without fullgraph, torch.compile would silently hand parts of a peer back to eager PyTorch.
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    ways = {
        "released": (peer(released, lambda operator: operator), False, {}),
        "released_compiled": (peer(released, compiled), True, {}),
        "shift_add_compiled": (peer(shift_add, compiled), True, {}),
    }
    backends: dict[str, str | None] = {OURS: "cpu", f"{OURS}_reference": "reference"}
    if setting.device == "cuda":
        serving = [name for name, reason in reasons("cuda").items() if reason is None]
        backends = {OURS: None} | {f"{OURS}_{name}": name for name in serving}
    for name, backend in backends.items():
        ways[name] = (ours(backend), False, {"backend": backend or picked(setting.device)})
    return {name: Candidate(call(way[0], arguments, setting.mode), *way[1:]) for name, way in ways.items()}


def picked(device: str) -> str:
    """The backend that dispatch picks if the caller names none."""
    return dispatch.select(None, device).__name__.rpartition(".")[2]  # type: ignore[attr-defined]


def reasons(device: str) -> dict[str, str | None]:
    """Our own backends for a device, each with the reason why it can't serve, or None if it can."""
    names = ("cuda", "triton") if device == "cuda" else ("cpu",)
    return {name: dispatch.load(name).why_not(device) for name in names}
