# SPDX-License-Identifier: Apache-2.0
"""VGG16 and VGG19 (Simonyan and Zisserman, 2015) as feature extractors, with torchvision's published weights."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mrda.core.checks import check_choice, check_image
from mrda.networks.layers import any_tensor, conv3x3, convolve
from mrda.networks.official import read_official
from mrda.networks.published import PublishedFile, find_published
from mrda.networks.registry import check_tensors

_WIDTHS = (64, 128, 256, 512, 512)
_CONVS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions of each block; max pooling separates the blocks."""

VGG_WEIGHTS = {
    name: PublishedFile(
        f"{name.upper()} features", file, f"https://download.pytorch.org/models/{file}", sha256, tensors, "features."
    )
    for name, file, sha256, tensors in (
        ("vgg16", "vgg16-397923af.pth", "397923af", "76daf72d55e3de56"),
        ("vgg19", "vgg19-dcbb9e9d.pth", "dcbb9e9d", None),
    )
}
"""Torchvision's weights, trained on ImageNet."""


class VGG(nn.Module):
    """The 3x3 convolutions of VGG up to the deepest requested layer, with ReLU after each and max pooling in between.

    The weights' keys are torchvision's: ``features.N.weight`` and ``features.N.bias``, where N counts convolutions,
    ReLUs and poolings.

    Args:
        depth: "vgg16" or "vgg19".
        layers: Outputs to return: "convB_I" is that of convolution I of block B (both from 1) before its ReLU,
            "reluB_I" that after it.

    Raises:
        ValueError: ``depth`` is another one, or ``layers`` is empty or has a layer that this network does not.
    """

    def __init__(self, depth: str, layers: Collection[str]) -> None:
        super().__init__()
        check_choice("depth", depth, _CONVS)
        names = _layer_names(depth)
        for layer in layers:
            if layer not in names or layer.startswith("pool"):
                last = f"conv5_{_CONVS[depth][-1]}"
                raise ValueError(f"layer {layer!r} is none of {depth}'s conv1_1 to {last} or relu1_1 to relu{last[4:]}")
        if not layers:
            raise ValueError("layers is empty, but must name at least one layer")
        self.depth = depth
        deepest = max(names.index(layer) for layer in layers)
        self.taps = {names.index(layer): layer for layer in layers}
        self.features = nn.Sequential()
        channels = 3
        for index, name in enumerate(names[: deepest + 1]):
            if name.startswith("conv"):
                width = _WIDTHS[int(name[4]) - 1]
                self.features.append(conv3x3(channels, width))
                channels = width
            elif name.startswith("relu"):
                # in place, which halves the memory, unless that would overwrite an output
                self.features.append(nn.ReLU(inplace=index - 1 not in self.taps))
            else:
                self.features.append(nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the layers' outputs by name, from shallow to deep.

        Args:
            x: (B, 3, H, W), normalised as the weights need it, large enough for the poolings before the deepest layer.

        Raises:
            TypeError: ``x`` is not a floating point tensor of the weights' dtype.
            ValueError: ``x`` has another shape or device, or is too small.
        """
        check_image("x", x, like=any_tensor(self.features))
        poolings = sum(isinstance(layer, nn.MaxPool2d) for layer in self.features)
        if min(x.shape[2:]) < 2**poolings:
            raise ValueError(f"x has shape {tuple(x.shape)}, but must be at least {2**poolings} pixels high and wide")
        found: dict[str, Tensor] = {}
        for index, layer in enumerate(self.features):
            x = convolve(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
            if index in self.taps:
                found[self.taps[index]] = x
        return found


def check_vgg(
    depth: str, layers: Collection[str], path: str | os.PathLike[str] | None = None, *, otherwise: str
) -> Path:
    """Find the file that :func:`load_vgg` loads, without loading it; arguments and errors are the same."""
    with torch.device("meta"):
        VGG(depth, layers)
    return find_published(VGG_WEIGHTS[depth], path, otherwise=otherwise)


def load_vgg(
    depth: str,
    layers: Collection[str],
    path: str | os.PathLike[str] | None = None,
    *,
    otherwise: str = "or give the file's path",
) -> VGG:
    """Build a VGG with torchvision's published weights, on the CPU, frozen.

    Args:
        depth: "vgg16" or "vgg19".
        layers: See :class:`VGG`.
        path: The published file, under any name; None looks for it in torch's hub cache. Nothing is downloaded.
        otherwise: Alternative to getting the file, for the message.

    Raises:
        ValueError: As for :class:`VGG`; or the file is missing, cannot be read, or is not the published one.
    """
    file = check_vgg(depth, layers, path, otherwise=otherwise)
    with torch.device("meta"):  # draws no random numbers
        vgg, whole = VGG(depth, layers), VGG(depth, [f"conv5_{_CONVS[depth][-1]}"])
    state = {key: tensor for key, tensor in read_official(file).items() if not key.startswith("classifier.")}
    check_tensors(f"weights {file}", state, whole.state_dict())
    vgg.load_state_dict(_needed(state, vgg), assign=True)
    return vgg.requires_grad_(False).eval()


def _needed(state: Mapping[str, Tensor], vgg: VGG) -> dict[str, Tensor]:
    # copies, because a file's tensors may share one storage with the layers that are not used
    return {key: state[key].to(torch.float32, copy=True) for key in vgg.state_dict()}


def _layer_names(depth: str) -> list[str]:
    """Return the layers in torchvision's order, so that a name's index is its N in ``features.N``."""
    names = []
    for block, count in enumerate(_CONVS[depth], start=1):
        for number in range(1, count + 1):
            names += [f"conv{block}_{number}", f"relu{block}_{number}"]
        names.append(f"pool{block}")
    return names
