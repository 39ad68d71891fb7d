# SPDX-License-Identifier: Apache-2.0
"""Weights on the line between two files: those for clean photos at strength 0, those for degraded ones at strength 1.

Networks can be interpolated if one was trained on from the other, or both from the same weights: each value is
(1 - s) * clean + s * degraded. `mrda.upscale.weights.PARTNERS` names the pairs of the package. torch is imported where
it is used, so that a wrong strength is told at once.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

from mrda.upscale.weights import PARTNERS, WEIGHTS_FILE, current_name, find_weights

if TYPE_CHECKING:
    from mrda.networks import BlindNetwork, Network

Pair = tuple[str, str]
"""Names of the weights at strength 0 and at strength 1."""
_JOINED = {"license": " AND ", "data": "; ", "attribution": "; "}
"""Metadata that weights between two files have from both, and the text between them."""


def pair_of(weights: str | os.PathLike[str]) -> Pair | None:
    """Return the pair that some weights belong to, whichever of the two they are; None if they have no partner.

    Args:
        weights: as for `mrda.upscale.weights.find_weights`; files and folders have no partner.
    """
    if os.path.isfile(weights) or os.path.isfile(os.path.join(weights, WEIGHTS_FILE)):
        return None
    name = current_name(os.fspath(weights))
    return next((pair for pair in PARTNERS.items() if name in pair), None)


def check_strength(weights: str | os.PathLike[str], strength: float) -> Pair:
    """Return the pair that some weights belong to.

    Args:
        weights: as for `pair_of`.
        strength: place on the line, 0 to 1.

    Raises:
        ValueError: the strength is outside of its range, or the weights have no partner.
    """
    _check_range(strength)
    if (pair := pair_of(weights)) is None:
        which = f"use it with -w {' or '.join(PARTNERS)}" if PARTNERS else "no weights of the package have one yet"
        raise ValueError(
            f"strength is for weights with a partner, and {os.fspath(weights)} have none: leave it out ({which})"
        )
    return pair


def load_between(weights: str | os.PathLike[str], strength: float) -> tuple[BlindNetwork, dict[str, str]]:
    """Load the weights at a strength, on the CPU and in float32; at 0 and 1 they are those of the files, to the bit.

    Args:
        weights: as for `pair_of`.
        strength: place on the line, 0 to 1.

    Returns:
        The network, and further metadata: that of the file at 0 and 1; in between what both files agree on, the
        licences, data and attributions of both, and the strength.

    Raises:
        ValueError: as `check_strength`, or the files are missing, damaged, or no pair.
    """
    from mrda.networks import load_any
    from mrda.networks.checkpoints import further_metadata

    pair = check_strength(weights, strength)
    files = [find_weights(name) for name in pair]
    clean, degraded = map(load_any, files)
    said, also = map(further_metadata, files)
    why = _difference(clean, degraded)
    if why is None and "ancestor" in said and said["ancestor"] != also.get("ancestor", said["ancestor"]):
        why = "they were trained from different weights (their metadata names other ancestors)"
    if why is not None:
        raise ValueError(f"there is nothing between the weights {pair[0]} and {pair[1]}: {why}")
    network = between(clean, degraded, strength)
    if strength in (0, 1):
        return network, also if strength else said
    metadata = {key: value for key, value in said.items() if also.get(key) == value}
    for key, joint in _JOINED.items():
        if values := list(dict.fromkeys(found[key] for found in (said, also) if key in found)):
            metadata[key] = joint.join(values)
    return network, metadata | {"strength": f"{strength:g}, from {pair[0]} to {pair[1]}"}


def between(clean: Network, degraded: Network, strength: float) -> BlindNetwork:
    """Return the network at a strength between two of one shape that descend from the same weights.

    Args:
        clean: the network at 0.
        degraded: the network at 1.
        strength: place on the line, 0 to 1.

    Returns:
        At 0 and 1 the network given; in between a new one, whose values are computed in float64 and rounded once, so
        that those on which both agree stay as they are.

    Raises:
        ValueError: the strength is outside of its range, or the networks do not upscale or have different shapes.
    """
    from mrda.networks import BlindNetwork

    _check_range(strength)
    if (why := _difference(clean, degraded)) is not None:
        raise ValueError(f"there is nothing between the networks: {why}")
    assert isinstance(clean, BlindNetwork)
    assert isinstance(degraded, BlindNetwork)
    if strength in (0, 1):
        return degraded if strength else clean
    network, other = copy.deepcopy(clean), degraded.state_dict()
    network.load_state_dict(
        {
            key: ((1 - strength) * value.double() + strength * other[key].double()).to(value.dtype)
            if value.is_floating_point()
            else value
            for key, value in clean.state_dict().items()
        }
    )
    return network


def _difference(clean: Network, degraded: Network) -> str | None:
    """Say why there is nothing between two networks; None if there is."""
    from mrda.networks import BlindNetwork

    if not isinstance(clean, BlindNetwork) or type(clean) is not type(degraded):
        return f"they are a {type(clean).__name__} and a {type(degraded).__name__}, but must be students of one kind"
    options, others = clean.hyperparameters, degraded.hyperparameters
    different = [f"{key} ({value} and {others[key]})" for key, value in options.items() if others[key] != value]
    return f"they differ in {', '.join(different)}" if different else None


def _check_range(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength:g}, but must be from 0 to 1")
