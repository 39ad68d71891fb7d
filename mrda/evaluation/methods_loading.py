# SPDX-License-Identifier: Apache-2.0
"""Loading a weights file as a method; the network's architecture decides which one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mrda.core.checks import check_int
from mrda.evaluation.methods import blind_method, mln_method, oracle_method, teacher_method
from mrda.evaluation.samples import Method
from mrda.networks import (
    DASR,
    MLN,
    BlindNetwork,
    KDSRStudent,
    MRDAOracle,
    MRDAStudent,
    MRDATeacher,
    Network,
)
from mrda.networks.checkpoints import further_metadata
from mrda.networks.layers import freeze, to_channels_last
from mrda.options.networks import INNER_LR, INNER_STEPS
from mrda.upscale.upscaler import Upscaler, load_weights
from mrda.upscale.weights import find_weights

METHOD_NAMES: dict[type, str] = {
    MRDAStudent: "mrda_s",
    MRDATeacher: "mrda_t",
    MRDAOracle: "mrda_t3",
    MLN: "mln",
    DASR: "dasr",
    KDSRStudent: "kdsr_s",
}
"""Names of the methods in tables and files."""


class Adaptation(NamedTuple):
    """Settings of the MLN's adaptation to each photograph."""

    steps: int
    inner_lr: Sequence[float]
    freeze_upscaler: bool
    clip: float | None = None


class LoadedMethod(NamedTuple):
    """A network, ready to be measured."""

    name: str
    scale: int
    method: Method
    blur_size: int | None
    """Side of the blur kernels that the network takes as input; None if it takes none."""
    needs_hr: bool = False
    """True if the method reads HR."""
    network: BlindNetwork | None = None
    """The network, if it needs LR alone."""


def load_method(
    weights: str | Path,
    *,
    mln: str | Path | None = None,
    steps: int | None = None,
    device: torch.device | str = "cpu",
) -> LoadedMethod:
    """Load a network as a method: `mrda_s`, `mrda_t`, `mrda_t3`, `mln`, `dasr` or `kdsr_s`.

    Args:
        weights: a file for `mrda.upscale.upscaler.load_weights`.
        mln: the weights of the MLN; required for a teacher that reads its features, refused for anything else.
        steps: adaptation steps of a teacher's MLN, or of an MLN; None is `recorded_adaptation`'s number.
        device: device to compute on.

    Raises:
        TypeError: `steps` is not an int.
        ValueError: a file is missing or holds no such weights, `mln` is missing, is not wanted or does not fit the
            teacher, `steps` is negative or not wanted.
    """
    if steps is not None:
        check_int("steps", steps, minimum=0)
    network = load_weights(weights)
    name = METHOD_NAMES[type(network)]
    if isinstance(network, MRDATeacher) and network.options.den_input == "lr_hr":
        if mln is not None or steps is not None:
            raise ValueError(f"mln and steps must be left out: {weights} holds an MRDATeacher that reads LR and HR")
        method = teacher_method(_ready(network, device), None)
        return LoadedMethod(name, network.scale, method, None, needs_hr=True)
    if mln is not None and not isinstance(network, MRDATeacher):
        raise ValueError(f"mln is {mln}, but only a teacher uses an MLN, and {weights} holds an {_kind(network)}")
    if steps is not None and not isinstance(network, MRDATeacher | MLN):
        raise ValueError(f"steps is {steps}, but {weights} holds an {_kind(network)}, which does not adapt")
    if isinstance(network, BlindNetwork):
        upscaler = Upscaler(
            network, device=device, dtype=torch.float32
        )  # float32 on a GPU too, because the other methods run in it
        return LoadedMethod(name, network.scale, blind_method(upscaler), None, network=upscaler.network)
    network = _ready(network, device)
    if isinstance(network, MRDAOracle):
        return LoadedMethod(name, network.scale, oracle_method(network), network.den.blur_size)
    recorded = recorded_adaptation(weights, network)
    options: dict[str, Any] = recorded._replace(steps=recorded.steps if steps is None else steps)._asdict()
    if isinstance(network, MLN):
        return LoadedMethod(name, network.scale, mln_method(network, **options), None, needs_hr=True)
    partner = _load_partner(network, weights, mln)
    method = teacher_method(network, _ready(partner, device), **options)
    return LoadedMethod(name, network.scale, method, None, needs_hr=True)


def recorded_adaptation(weights: str | Path, network: Network) -> Adaptation:
    """Read the adaptation settings of the training from a weights file.

    A run's safetensors files have their configuration in the metadata entry "recipe", a JSON object: the keys
    `adaptation.inner_steps`, `inner_lr` and `inner_clip` and `freeze_upscaler` of a teacher, those of `meta` and
    `freeze_upscaler` of an MLN. Missing keys have the defaults of `mrda.networks.adaptation.adapt`.

    Raises:
        ValueError: the file can't be read, or its recipe is not such an object.
    """
    text = further_metadata(find_weights(weights)).get("recipe", "{}")  # published state dicts have no recipe
    recipe: object
    try:
        recipe = json.loads(text)
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict):
        raise ValueError(f"{weights} has a recipe in its metadata that is not a JSON object")
    section = "meta" if isinstance(network, MLN) else "adaptation"
    steps = recipe.get(f"{section}.inner_steps", INNER_STEPS)
    rates = recipe.get(f"{section}.inner_lr", list(INNER_LR))
    clip = recipe.get(f"{section}.inner_clip")
    frozen = recipe.get("freeze_upscaler", "all")
    for key, value, fits in (
        (f"{section}.inner_steps", steps, isinstance(steps, int) and steps >= 0),
        (f"{section}.inner_lr", rates, isinstance(rates, list) and bool(rates) and all(map(_is_rate, rates))),
        (f"{section}.inner_clip", clip, clip is None or _is_rate(clip)),
        ("freeze_upscaler", frozen, frozen in ("all", "student_only", "none")),
    ):
        if not fits or isinstance(value, bool):
            raise ValueError(f"{weights} has {key} = {value!r} in its recipe, which is not a valid value")
    # "student_only" leaves it trainable in the stages of MLN and teacher.
    return Adaptation(steps, tuple(rates), frozen == "all", clip)


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _load_partner(teacher: MRDATeacher, weights: str | Path, path: str | Path | None) -> MLN:
    """Load the MLN whose features the teacher reads."""
    if path is None:
        raise ValueError(f"mln is missing, but {weights} holds an MRDATeacher, which requires the weights of an MLN")
    mln = load_weights(path)
    if not isinstance(mln, MLN):
        raise ValueError(f"mln must be the weights of an MLN, but {path} holds an {_kind(mln)}")
    if mln.scale != teacher.scale:
        raise ValueError(f"mln {path} upscales by {mln.scale}, but must upscale by {teacher.scale}, as {weights} does")
    if mln.num_feat != teacher.den.in_channels:
        raise ValueError(f"mln {path} has {mln.num_feat} features, but {weights} needs {teacher.den.in_channels}")
    return mln


def _ready(network: Any, device: torch.device | str) -> Any:
    return to_channels_last(freeze(network).to(device))


def _kind(network: Network) -> str:
    return type(network).__name__
