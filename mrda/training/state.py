"""What a stage leaves on the disk and how it is taken up again: its recipe, checkpoints and final weights.

A recipe is a flat dictionary, config keys to values, of all that the numbers of a stage depend on. It lies in
the stage's folder, so that results of another configuration are never continued or taken for finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mrda.config import TrainConfig
from mrda.files import atomic_write
from mrda.networks import load_network, save_network
from mrda.networks.checkpoints import Network, read_pickle
from mrda.training.errors import RunRefusedError
from mrda.training.stage import Stage

Recipe = dict[str, Any]

COMMON = ("scale", "seed", "mixed_precision", "micro_batches", "gradient_clip", "data")


def recipe_of(stage: type[Stage], config: TrainConfig, inputs: Mapping[str, Path]) -> Recipe:
    """All that the weights of ``stage`` depend on: config keys and the content of its input weights."""
    relevant = (*COMMON, stage.name, *stage.depends_on)
    recipe = {
        key: value
        for key, value in _flatten(config.model_dump(mode="json"))
        if any(key == prefix or key.startswith(f"{prefix}.") for prefix in relevant)
        and not key.startswith(f"{stage.name}.init_")
    }
    for name, path in inputs.items():
        recipe[f"SHA-256 of the weights '{name}'"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return recipe


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Refuse a stage's folder that holds results of another recipe, or of none that is known.

    Raises:
        RunRefusedError: the recipes differ (the first difference is named), or there are weights or checkpoints but
            no readable recipe.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        if any((folder / results).exists() for results in ("weights.safetensors", "checkpoints")):
            raise RunRefusedError(
                f"{folder} holds results but no recipe.json to tell how they were made: "
                "use another run directory, or train anew without resuming"
            )
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise RunRefusedError(f"{path} is not the JSON that a run writes: train anew without resuming") from None
    for key in [*recipe, *stored]:
        if stored.get(key) != recipe.get(key):
            raise RunRefusedError(
                f"{folder} holds results of {key} = {stored.get(key)}, now it is {recipe.get(key)}: "
                "use another run directory, or train anew without resuming"
            )


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Put the recipe into a stage's folder, before anything that depends on it."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "recipe.json") as temporary:
        temporary.write_text(json.dumps(recipe, indent=2), encoding="utf-8")


def discard(folder: Path) -> None:
    """Delete a stage's folder.

    It gets another name first, so that a deletion that is cut short leaves nothing that looks like results.
    """
    trash = folder.with_name(f".{folder.name}.trash")
    if trash.exists():
        shutil.rmtree(trash)
    if folder.exists():
        os.rename(folder, trash)
        shutil.rmtree(trash)


def save_weights(path: Path, network: Network, recipe: Recipe) -> None:
    """Write the final weights of a stage, atomically; how they were made is in the file's metadata."""
    save_network(network, path, recipe=json.dumps(recipe), torch_version=str(torch.__version__))


class Checkpoints:
    """The checkpoints of one stage: folders ``step-XXXXXXXX`` that appear whole or not at all.

    Args:
        folder: where they are kept; made when the first one is saved.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Numbers of finished steps at which there is a checkpoint, ascending."""
        names = (path.name for path in self.folder.glob("step-*"))
        return sorted(int(name.removeprefix("step-")) for name in names if re.fullmatch(r"step-\d{8}", name))

    def save(self, step: int, network: Network, optimizer: torch.optim.Optimizer) -> Path:
        """Write the state after ``step`` finished steps, then drop checkpoints beyond the newest ``keep``."""
        final = self._path(step)
        temporary = self.folder / f".{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_network(network, temporary / "network.safetensors")
        state = {"step": step, "optimizer": optimizer.state_dict(), "torch_version": str(torch.__version__)}
        with atomic_write(temporary / "state.pt") as file:
            torch.save(state, file)
        os.rename(temporary, final)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self._path(old))
        return final

    def restore(self, network: Network, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest checkpoint, if there is one, and return the number of finished steps.

        Raises:
            RunRefusedError: it is damaged.
        """
        steps = self.steps()
        if not steps:
            return 0
        folder = self._path(steps[-1])
        try:
            state = read_pickle(folder / "state.pt")
            saved = load_network(folder / "network.safetensors", expect=type(network))
        except ValueError as error:
            raise RunRefusedError(f"{error}; delete the damaged checkpoint {folder} to go on without it") from error
        network.load_state_dict(saved.state_dict())
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return flat
