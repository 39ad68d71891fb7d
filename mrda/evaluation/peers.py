# SPDX-License-Identifier: Apache-2.0
"""Other people's SR networks to be measured beside ours: those that this package has, and those of Spandrel."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrda.core.checks import SCALES
from mrda.core.faults import reason
from mrda.evaluation.methods import blind_method
from mrda.evaluation.samples import Method, Sample
from mrda.networks.reading import UNREADABLE
from mrda.networks.unlabelled import holds_blind_network
from mrda.upscale.upscaler import Upscaler, is_out_of_memory, load_student

# Exceptions that Spandrel and its readers raise for damaged files, besides Spandrel's own.
_UNREADABLE = (*UNREADABLE, AssertionError)


class Peer(NamedTuple):
    """A network from another project."""

    name: str
    """The file's name without its suffix."""
    scale: int
    method: Method


def load_peer(path: str | Path, *, device: torch.device | str = "cpu") -> Peer:
    """Load DASR, KDSR's student or another student, or an SR network that Spandrel knows.

    Args:
        path: a weights file: .pth, .pt, .ckpt or .safetensors.
        device: device to compute on.

    Raises:
        ValueError: there is no such file, its tensors do not fit its network, Spandrel is not installed or can't load
            it, or it holds no network that enlarges RGB photos by 2, 3 or 4.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise ValueError(f"there is no weights file {path}")
    if holds_blind_network(path):
        upscaler = Upscaler(load_student(path), device=device, dtype=torch.float32)
        return Peer(path.stem, upscaler.scale, blind_method(upscaler))
    spandrel = _spandrel()
    try:
        network = spandrel.ModelLoader(device=device).load_from_file(path)
    except spandrel.UnsupportedModelError:
        raise ValueError(f"peer {path} holds a network whose architecture Spandrel does not know") from None
    except (*_UNREADABLE, _safetensor_error()) as error:
        raise ValueError(f"peer {path} can't be loaded by Spandrel: {reason(error)}") from error
    if not isinstance(network, spandrel.ImageModelDescriptor) or network.purpose != "SR":
        raise ValueError(f"peer {path} holds a network for {network.purpose}, but must hold one for SR")
    channels = network.input_channels, network.output_channels
    if channels != (3, 3):
        raise ValueError(f"peer {path} makes {channels[1]} channels of {channels[0]}, but must make RGB of RGB")
    if network.scale not in SCALES:
        raise ValueError(f"peer {path} upscales by {network.scale}, but must upscale by 2, 3 or 4")
    return Peer(path.stem, network.scale, _method(path.stem, network.eval()))


def load_peers(
    paths: Sequence[str | Path], *, scale: int | None, taken: Sequence[str], device: torch.device | str = "cpu"
) -> list[Peer]:
    """Load networks that stand in one table.

    Args:
        paths: weights files.
        scale: the factor that all must upscale by; None takes the first one's.
        taken: names that are already used in the table.
        device: device to compute on.

    Raises:
        ValueError: as for `load_peer`; a peer upscales by another factor, or its name is taken.
    """
    peers: list[Peer] = []
    for path in paths:
        name = Path(path).stem
        if name in (*taken, *(peer.name for peer in peers)):
            raise ValueError(f"peer {path} would be called {name}, and that name is taken: rename the file")
        peer = load_peer(path, device=device)
        scale = peer.scale if scale is None else scale
        if peer.scale != scale:
            raise ValueError(f"peer {path} upscales by {peer.scale}, but must upscale by {scale} to be compared")
        peers.append(peer)
    return peers


def _method(name: str, network: Any) -> Method:
    def upscale(sample: Sample) -> Tensor:
        # A copy, because a network that changes its input in place must not affect the next method.
        lr = sample.lr.to(network.device, network.dtype, copy=True)
        try:
            return network(lr)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            height, width = lr.shape[2:]
            raise ValueError(f"{name} can't upscale an LR of {height}x{width} pixels: {reason(error)}") from error

    return upscale


def _spandrel() -> ModuleType:
    try:
        return importlib.import_module("spandrel")
    except (ImportError, OSError, RuntimeError) as error:  # the latter two of a torchvision built for another torch
        raise ValueError(
            f"peers need the package spandrel, which can't be imported ({reason(error)}): "
            "pip install './mrda[peers]', and torchvision, which spandrel requires"
        ) from error


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
