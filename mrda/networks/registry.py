# SPDX-License-Identifier: Apache-2.0
"""The networks that weights files can hold, and building one to load weights into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import torch
from torch import Tensor

from mrda.networks.blind import BlindNetwork
from mrda.networks.dasr import DASR
from mrda.networks.discriminator import UNetDiscriminator
from mrda.networks.kdsr import KDSRStudent
from mrda.networks.mln import MLN
from mrda.networks.mrda import MRDAOracle, MRDAStudent, MRDATeacher

Network = MLN | MRDATeacher | MRDAOracle | BlindNetwork
NetworkClass = type[Network]

ARCHITECTURES: dict[str, NetworkClass] = {
    "MLN": MLN,
    "MRDATeacher": MRDATeacher,
    "MRDAStudent": MRDAStudent,
    "MRDAOracle": MRDAOracle,
    "DASR": DASR,
    "KDSRStudent": KDSRStudent,
}
"""The networks by their names in files."""

DISCRIMINATORS: dict[str, type[UNetDiscriminator]] = {"UNetDiscriminator": UNetDiscriminator}
"""Networks in files that help in training and do not make SR."""


@overload
def build(architecture: NetworkClass, options: dict[str, Any]) -> Network: ...
@overload
def build(architecture: type[UNetDiscriminator], options: dict[str, Any]) -> UNetDiscriminator: ...
def build(architecture: Any, options: dict[str, Any]) -> Any:
    """Build a network to load weights into; the caller's random generator does not advance."""
    with torch.random.fork_rng(devices=[]):
        return architecture(**options)


def check_network(network: object, *, discriminators: bool = False) -> None:
    """Raise TypeError unless ``network`` is one of the method's, or, if ``discriminators``, a discriminator.

    Subclasses are refused, because a file could not name them.
    """
    known: dict[str, Any] = {**ARCHITECTURES, **(DISCRIMINATORS if discriminators else {})}
    if type(network) not in known.values():
        raise TypeError(f"network is {type(network).__name__}, but must be one of {', '.join(known)}")


def check_tensors(name: str, got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError, listing the keys, if the tensors ``got`` from ``name`` do not fit ``expected``."""
    problems = {
        "missing": sorted(expected.keys() - got.keys()),
        "unexpected": sorted(got.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(got[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in got and got[key].shape != tensor.shape
        ],
    }
    found = [f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"{name} must have exactly the network's keys; {'; '.join(found)}")
