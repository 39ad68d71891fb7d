# SPDX-License-Identifier: Apache-2.0
"""Weights files from the published format into ours and back, without losing a bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mrda.core.files import atomic_write
from mrda.networks.checkpoints import further_metadata, load_network, save_network
from mrda.networks.dasr import DASR
from mrda.networks.kdsr import KDSRStudent
from mrda.networks.official import load_official, read_official, to_official
from mrda.networks.reading import pickle_of, read_safetensors
from mrda.networks.registry import Network

OFFICIAL_SUFFIXES = (".pth", ".pt")
OWN_SUFFIX = ".safetensors"


def convert_weights(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Network:
    """Convert a published .pth or .pt file into our .safetensors, or the other way round, as the suffixes say.

    The result is in float32 and holds exactly the numbers of ``source``; wider ones must fit. Further metadata of our
    files, such as licence, data, recipe, stage and step, is kept in both directions; the rest of a training checkpoint
    is not. The wrappers that :func:`~mrda.networks.official.read_official` knows are removed.

    Args:
        source: The file to read.
        target: The file to write, whole or not at all; a file there is replaced.

    Returns:
        The network that both files hold.

    Raises:
        ValueError: The suffixes are not one of each kind, ``source`` and ``target`` are one file, ``source`` cannot be
            read, a number in it does not fit float32, or the published format cannot express the network.
    """
    source, target = Path(source), Path(target)
    from_official = source.suffix in OFFICIAL_SUFFIXES and target.suffix == OWN_SUFFIX
    if not from_official and not (source.suffix == OWN_SUFFIX and target.suffix in OFFICIAL_SUFFIXES):
        raise ValueError(
            f"one of {source.name} and {target.name} must be a .pth or .pt file and the other a .safetensors file"
        )
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target} is the file to convert, and would be overwritten")
    metadata = further_metadata(source)
    if from_official:
        network = load_official(source)
        constants = ("G.sub_mean.", "G.add_mean.") if isinstance(network, DASR | KDSRStudent) else ()  # not loaded
        stored = {key: tensor for key, tensor in read_official(source).items() if not key.startswith(constants)}
        _check_exact(source, stored, to_official(network))
        save_network(network, target, **metadata)
        return network
    network = load_network(source)
    _check_exact(source, read_safetensors(source)[0], network.state_dict())
    content = pickle_of(to_official(network), metadata)
    with atomic_write(target) as file:
        file.write(content)
    return network


def _check_exact(source: Path, stored: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the network has exactly the numbers of the file."""
    for key, tensor in stored.items():
        if not torch.allclose(tensor.double(), loaded[key].double(), rtol=0, atol=0, equal_nan=True):
            raise ValueError(f"{source} has {tensor.dtype} numbers in {key!r} that float32 cannot hold exactly")
