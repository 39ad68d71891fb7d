# SPDX-License-Identifier: Apache-2.0
"""Our own weights files: flat safetensors, whose metadata has all that is needed to build the network again.

safetensors is imported where it is used, because the networks themselves need torch alone.
"""

from __future__ import annotations

import json
import os
from typing import Any, overload

from torch import nn

from mrda.core.faults import reason
from mrda.core.files import atomic_write
from mrda.networks.discriminator import UNetDiscriminator
from mrda.networks.reading import read_metadata, read_safetensors
from mrda.networks.registry import ARCHITECTURES, DISCRIMINATORS, Network, build, check_network, check_tensors

OWN_KEYS = ("architecture", "hyperparameters", "scale")


def save_network(network: Network | UNetDiscriminator, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write the parameters of ``network`` as a flat safetensors file, whole or not at all.

    Args:
        network: The network; its class and hyperparameters go into the file's metadata.
        path: Where to write; a file there is replaced.
        **metadata: Further entries, e.g. ``stage="student"``.

    Raises:
        TypeError: ``network`` is not one of the method's, or a metadata value is not a string.
        ValueError: A metadata key is taken (``architecture``, ``hyperparameters``, ``scale``).
    """
    check_network(network, discriminators=True)
    for key, value in metadata.items():
        if key in OWN_KEYS:
            raise ValueError(f"metadata key {key!r} is written by save_network itself")
        if not isinstance(value, str):
            raise TypeError(f"metadata {key!r} is {value!r}, but must be a string")
    from safetensors.torch import save

    options = network.hyperparameters
    entries = {
        **metadata,
        "architecture": type(network).__name__,
        "hyperparameters": json.dumps(options),
        **({"scale": str(options["scale"])} if "scale" in options else {}),
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(path) as file:
        file.write(save(tensors, entries))


def further_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a weights file besides the network's own, such as a licence; the authors' files have none.

    Raises:
        ValueError: The file can't be read.
    """
    return {key: value for key, value in read_metadata(path).items() if key not in OWN_KEYS}


@overload
def load_network(  # type: ignore[overload-overlap]  # the narrower overload comes first
    path: str | os.PathLike[str], *, expect: type[UNetDiscriminator]
) -> UNetDiscriminator: ...
@overload
def load_network(path: str | os.PathLike[str], *, expect: type[nn.Module] | None = None) -> Network: ...
def load_network(path: str | os.PathLike[str], *, expect: type[nn.Module] | None = None) -> Any:
    """Rebuild the network that :func:`save_network` wrote, on the CPU and in float32.

    Hyperparameters that the file does not name, because it is older than they are, have their defaults.

    Args:
        path: The file.
        expect: The class it must hold; None accepts every network that makes SR, but no discriminator.

    Raises:
        ValueError: The file cannot be read, was not written by :func:`save_network`, holds another class than
            ``expect``, or its tensors do not fit its hyperparameters.
    """
    name = f"weights {os.fspath(path)}"
    tensors, metadata = read_safetensors(path)
    if "architecture" not in metadata or "hyperparameters" not in metadata:
        raise ValueError(
            f"{name} must name architecture and hyperparameters in the metadata, as save_network does: they were "
            "written by another program, or hold another network"
        )
    architecture = metadata["architecture"]
    known: dict[str, Any] = {**ARCHITECTURES, **({} if expect is None else DISCRIMINATORS)}
    if architecture not in known:
        raise ValueError(f"{name} hold {architecture!r}, but must hold one of {', '.join(known)}")
    if expect is not None and not issubclass(known[architecture], expect):
        raise ValueError(f"{name} hold {architecture}, but must hold {expect.__name__}")
    try:
        network = build(known[architecture], json.loads(metadata["hyperparameters"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} have unusable hyperparameters: {reason(error)}") from error
    check_tensors(name, tensors, network.state_dict())
    network.load_state_dict(tensors)
    return network
