# SPDX-License-Identifier: Apache-2.0
"""Networks from safetensors files that do not name their architecture, such as those of `PyTorchModelHubMixin`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrda.core.faults import reason
from mrda.core.weights_files import kind_of_weights
from mrda.networks.blind import BlindNetwork
from mrda.networks.checkpoints import load_network
from mrda.networks.official import load_official, read_official, recognise, unlabelled_to_official
from mrda.networks.reading import read_metadata, read_safetensors
from mrda.networks.registry import ARCHITECTURES, Network, NetworkClass, build

CONFIG_FILE = "config.json"
"""File beside the weights with the network's arguments, as `PyTorchModelHubMixin` names it."""
_STUDENT = ("rdan.head.weight", "den.convs.0.weight")


def load_any(path: str | os.PathLike[str]) -> Network:
    """Load a network of the method from a file of any kind, on the CPU and in float32; its content tells the kind.

    Args:
        path: a file of :func:`~mrda.networks.save_network`; a safetensors file without its metadata, with the network's
            arguments in a ``config.json`` beside it or, for a student, without; or a published state dict in a pickle
            of torch, of which only tensors and plain containers are read.

    Raises:
        ValueError: the file can't be read or holds something else; the message says what.
    """
    if kind_of_weights(path) == "pickle":
        return load_official(path)
    tensors, metadata = read_safetensors(path)
    if "architecture" in metadata:
        return load_network(path)
    name, config = f"weights {os.fspath(path)}", Path(path).with_name(CONFIG_FILE)
    if os.path.isfile(config):
        return _configured(name, tensors, config)
    if all(key in tensors for key in _STUDENT) and tensors[_STUDENT[1]].shape[1:2] == (3,):
        return load_official(unlabelled_to_official(tensors))
    if any(key in tensors for key in _STUDENT):
        raise ValueError(
            f"{name} do not say which network they are: put its arguments into a {CONFIG_FILE} beside them, as "
            "save_pretrained does"
        )
    return load_official(path)


def holds_blind_network(path: str | os.PathLike[str]) -> bool:
    """Return True if a file has the keys of a network that :func:`load_any` loads and that makes SR of LR alone."""
    try:
        if kind_of_weights(path) == "safetensors" and (label := read_metadata(path).get("architecture")) is not None:
            return label in ARCHITECTURES and issubclass(ARCHITECTURES[label], BlindNetwork)
        return issubclass(recognise(f"weights {os.fspath(path)}", read_official(path)), BlindNetwork)
    except ValueError:
        return False


def _configured(name: str, tensors: Mapping[str, Tensor], config: Path) -> Network:
    """Build the network that has the arguments of a file and these tensors, and load them."""
    try:
        options: Any = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{config}, beside the {name}, cannot be read: {reason(error)}") from error
    for architecture in ARCHITECTURES.values() if isinstance(options, dict) else ():
        if _fits(architecture, options, tensors):
            network = build(architecture, options)
            network.load_state_dict(tensors)
            return network
    raise ValueError(
        f"{name} are not those of an MRDA network with the arguments in {config}: their keys begin with "
        f"{_beginnings(tensors)}"
    )


def _fits(architecture: NetworkClass, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    try:
        with torch.device("meta"):
            expected = build(architecture, options).state_dict()
    except (TypeError, ValueError):
        return False
    return {key: tensor.shape for key, tensor in expected.items()} == {key: t.shape for key, t in tensors.items()}


def _beginnings(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted({key.split(".")[0] for key in tensors})[:8]) or "nothing"
