# SPDX-License-Identifier: Apache-2.0
"""The folder of a stage: its recipe, its checkpoints, and the errors that keep a run from starting.

A recipe is a flat dictionary, config keys to values, of everything that the results of a stage depend on. It is stored
in the stage's folder, so that results of another configuration are neither continued nor taken for finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mrda.config import TrainConfig
from mrda.config.names import nested_key
from mrda.core.faults import reason
from mrda.core.files import atomic_write, remove_leftovers, write_text
from mrda.networks import load_network, read_pickle, save_network
from mrda.training.stages import Stage

if TYPE_CHECKING:
    from mrda.training.trainer import Trainer

Recipe = dict[str, Any]

logger = logging.getLogger(__name__)

COMMON = (
    "scale",
    "seed",
    "train.micro_batches",
    "train.adapt_sync",
    "train.mixed_precision",
    "train.gradient_clip",
    "train.ema_decay",
    "data",
)


class RunRefusedError(ValueError):
    """A run can't be started or continued as asked; the message is one sentence that says what to change."""


class RunStoppedError(RuntimeError):
    """A run can't go on, because a file can't be written or read; the message says what was kept."""


@contextmanager
def refusals() -> Iterator[None]:
    """Turn ValueErrors of the preparation into `RunRefusedError`; those of the training itself are bugs."""
    try:
        yield
    except ValueError as error:
        raise RunRefusedError(str(error)) from error


# Recipes


def recipe_of(stage: type[Stage], config: TrainConfig, inputs: Mapping[str, Path]) -> Recipe:
    """Collect everything that the weights of ``stage`` depend on: config keys and hashes of its input weights."""
    relevant = (*COMMON, stage.name, *stage.depends_on(config))
    recipe = {
        key: value
        for key, value in _flatten(config.model_dump(mode="json"))
        if any(key == prefix or key.startswith(f"{prefix}.") for prefix in relevant)
        # The MLN's initialisation matters to later stages through its weights only. Files are known by their content:
        # input weights by the hashes below, and of VGG19 and VGG16 there is only one each.
        and (key != "networks.mln_init" or stage.name == "bicubic")
        and not key.startswith(f"{stage.name}.init_")
        and key not in ("visual.vgg19", "visual.vgg16")
    }
    if "adaptation.on" in recipe:
        recipe["adaptation.on"] = config.adapted_on
    for name, path in inputs.items():
        recipe[f"SHA-256 of the weights '{name}'"] = _sha256(path)
    return recipe


_BEFORE = {"adaptation.on": "self", "student.distil_share": None}
"""Values that stand for options of before they were added, where these are not their defaults."""


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Check that the results in a stage's folder, if it has any, were made with ``recipe``.

    An option that the stored recipe does not name was added later: what was done without it counts as stored, which is
    its default, but for those of `_BEFORE`.

    Raises:
        RunRefusedError: the recipes differ (the first difference is named), or there are weights or checkpoints but
            no readable recipe.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        if any((folder / results).exists() for results in ("weights.safetensors", "checkpoints")):
            raise RunRefusedError(
                f"{folder} holds results but no recipe.json that says how they were made: "
                "use another run directory, or start over without resuming (--no-resume)"
            )
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise RunRefusedError(f"{path} is not the JSON that a run writes: start over without resuming (--no-resume)")
    stored = {nested_key(key): value for key, value in stored.items()}
    before = dict(_flatten(TrainConfig().model_dump(mode="json"))) | _BEFORE
    stored = {key: value for key, value in before.items() if key in recipe} | stored
    for key in [*recipe, *stored]:
        if stored.get(key) != recipe.get(key):
            raise RunRefusedError(
                f"{folder} holds results with {key} = {stored.get(key)}, but now it is {recipe.get(key)}: "
                "use another run directory, or start over without resuming (--no-resume)"
            )


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the recipe into a stage's folder, before any results."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.json", json.dumps(recipe, indent=2))


def provenance(stage: str, recipe: Recipe) -> dict[str, str]:
    """Metadata of weight files that says how they were made; photos are named without their folders."""
    return {
        "stage": stage,
        "data": ", ".join(
            [Path(source).name for source in recipe["data.sources"]]
            + [f"pairs {Path(pair['lr']).name} and {Path(pair['hr']).name}" for pair in recipe["data.pairs"]]
        ),
        "recipe": json.dumps(recipe),
        "config_hash": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
        "torch_version": str(torch.__version__),
    }


# Folders


def check_folder(folder: Path) -> None:
    """Check that a stage's folder is missing or a folder.

    Raises:
        RunRefusedError: it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise RunRefusedError(f"{folder} must be the folder of a stage, but is a file: move it away")


def tidy(folder: Path) -> None:
    """Delete half-written and half-deleted files that a killed run has left in a stage's folder."""
    if _trash(folder).exists():
        shutil.rmtree(_trash(folder))
    for name in ("recipe.json", "log.jsonl", "best.safetensors", "weights.safetensors"):
        remove_leftovers(folder / name)
    for unfinished in (folder / "checkpoints").glob(".step-*"):
        shutil.rmtree(unfinished)


def discard(folder: Path) -> None:
    """Delete a stage's folder.

    It is renamed first, so that an interrupted deletion leaves nothing that looks like results.
    """
    if folder.exists():
        os.rename(folder, _trash(folder))
        shutil.rmtree(_trash(folder))


# Checkpoints


class Checkpoints:
    """The checkpoints of one stage: folders ``step-XXXXXXXX`` that appear whole or not at all.

    Each has a list of its files' SHA-256, by which a damaged one is recognised.

    Args:
        folder: parent of these folders; made when the first checkpoint is saved.
        keep: number of checkpoints to keep, the newest.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Numbers of finished steps at the checkpoints, ascending."""
        names = (path.name for path in self.folder.glob("step-*"))
        return sorted(int(name.removeprefix("step-")) for name in names if re.fullmatch(r"step-\d{8}", name))

    def save(self, trainer: Trainer) -> Path:
        """Save the trainer's state, then delete all but the newest ``keep`` checkpoints up to this one."""
        final = self._path(trainer.step)
        temporary = self.folder / f".{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            save_network(trainer.stage.network, temporary / "network.safetensors")
            with atomic_write(temporary / "state.pt") as file:
                torch.save({**trainer.state_dict(), "torch_version": str(torch.__version__)}, file)
            hashes = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
            write_text(temporary / "files.json", json.dumps(hashes, indent=2))
            if final.exists():
                shutil.rmtree(final)
            os.rename(temporary, final)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        # Checkpoints of later steps, if there are any, must not displace this one or those before it.
        for old in [step for step in self.steps() if step <= trainer.step][: -self.keep]:
            shutil.rmtree(self._path(old))
        return final

    def newest(self) -> int | None:
        """Number of finished steps at the newest whole checkpoint; None if there is none.

        Damaged newer ones are renamed to ``damaged-step-XXXXXXXX``, with a warning in the log.
        """
        for step in reversed(self.steps()):
            folder = self._path(step)
            damage = _damage(folder)
            if damage is None:
                return step
            aside = folder.with_name(f"damaged-{folder.name}")
            if aside.exists():
                shutil.rmtree(aside)
            os.rename(folder, aside)
            logger.warning(
                "the checkpoint %s is damaged (%s): it was renamed to %s, and training continues from an older one",
                folder,
                damage,
                aside,
            )
        return None

    def load(self, trainer: Trainer, step: int) -> None:
        """Restore ``trainer`` from the checkpoint at ``step``."""
        folder = self._path(step)
        saved = load_network(folder / "network.safetensors", expect=type(trainer.stage.network))
        trainer.stage.network.load_state_dict(saved.state_dict())
        trainer.load_state_dict(read_pickle(folder / "state.pt"))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _trash(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.trash")


def _damage(folder: Path) -> str | None:
    """Describe in a few words the damage to a checkpoint's files; None if there is none."""
    try:
        hashes = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        expected = {name: str(digest) for name, digest in hashes.items()}
    except (OSError, ValueError, AttributeError):
        return "files.json is missing or cut short"
    for name in ("network.safetensors", "state.pt"):
        try:
            if _sha256(folder / name) != expected.get(name):
                return f"{name} is cut short or changed"
        except OSError as error:
            return f"{name}: {reason(error)}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return flat
