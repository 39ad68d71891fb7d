"""What a stage leaves on the disk and how it is taken up again: its recipe, checkpoints and final weights.

A recipe is a flat dictionary, config keys to values, of all that the numbers of a stage depend on. It lies in
the stage's folder, so that results of another configuration are never continued or taken for finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mrda.config import EngineConfig, TrainConfig
from mrda.config.names import nested_key
from mrda.core.files import atomic_write, remove_leftovers, write_text
from mrda.networks import Network, load_network, read_pickle, save_network
from mrda.training.errors import RunRefusedError
from mrda.training.stage import Stage

Recipe = dict[str, Any]

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


def recipe_of(stage: type[Stage], config: TrainConfig, inputs: Mapping[str, Path]) -> Recipe:
    """All that the weights of ``stage`` depend on: config keys and the content of its input weights."""
    relevant = (*COMMON, stage.name, *stage.depends_on(config))
    recipe = {
        key: value
        for key, value in _flatten(config.model_dump(mode="json"))
        if any(key == prefix or key.startswith(f"{prefix}.") for prefix in relevant)
        # What other weights began as is theirs; and files are known by their content: these below, and VGG19, of which
        # there is but one.
        and (key != "networks.mln_init" or stage.name == "bicubic")
        and not key.startswith(f"{stage.name}.init_")
        and key != "visual.vgg19"
    }
    for name, path in inputs.items():
        recipe[f"SHA-256 of the weights '{name}'"] = _sha256(path)
    return recipe


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Refuse a stage's folder that holds results of another recipe, or of none that is known.

    An option that the stored recipe does not name, for it is younger, had its default then.

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
        stored = None
    if not isinstance(stored, dict):
        raise RunRefusedError(f"{path} is not the JSON that a run writes: train anew without resuming")
    stored = {nested_key(key): value for key, value in stored.items()}
    stored = {key: value for key, value in _flatten(TrainConfig().model_dump(mode="json")) if key in recipe} | stored
    for key in [*recipe, *stored]:
        if stored.get(key) != recipe.get(key):
            raise RunRefusedError(
                f"{folder} holds results of {key} = {stored.get(key)}, now it is {recipe.get(key)}: "
                "use another run directory, or train anew without resuming"
            )


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Put the recipe into a stage's folder, before anything that depends on it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.json", json.dumps(recipe, indent=2))


def check_folder(folder: Path) -> None:
    """Refuse what is no folder in the place of a stage's.

    Raises:
        RunRefusedError: there is something else.
    """
    if folder.exists() and not folder.is_dir():
        raise RunRefusedError(f"{folder} must be the folder of a stage, but is a file: move it away")


def tidy(folder: Path) -> None:
    """Delete what a killed run has left half-written, or half-deleted, of a stage's folder."""
    if _trash(folder).exists():
        shutil.rmtree(_trash(folder))
    for name in ("recipe.json", "log.jsonl", "best.safetensors", "weights.safetensors"):
        remove_leftovers(folder / name)
    for unfinished in (folder / "checkpoints").glob(".step-*"):
        shutil.rmtree(unfinished)


def discard(folder: Path) -> None:
    """Delete a stage's folder.

    It gets another name first, so that a deletion that is cut short leaves nothing that looks like results.
    """
    if folder.exists():
        os.rename(folder, _trash(folder))
        shutil.rmtree(_trash(folder))


def provenance(stage: str, recipe: Recipe) -> dict[str, str]:
    """How weights are made, for the metadata of their files; photos by their names alone, without folders."""
    return {
        "stage": stage,
        "data": ", ".join(Path(source).name for source in recipe["data.sources"]),
        "recipe": json.dumps(recipe),
        "config_hash": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
        "torch_version": str(torch.__version__),
    }


class TrainingState:
    """All that a stage moves and a checkpoint holds: network, optimizer, their average, counts.

    Args:
        stage: the stage, its networks on their device.
        lr: Adam's first learning rate.
        engine: options of the run.
        betas: Adam's decay rates.
        validation: `Validation.fingerprint`, None where there is none: a best result counts under that one alone.
    """

    def __init__(
        self,
        stage: Stage,
        lr: float,
        engine: EngineConfig,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        validation: str | None = None,
    ) -> None:
        self.stage = stage
        self.validation = validation
        groups: list[dict[str, Any]] = [{"params": stage.trainable(), "share": 1.0}]
        if stage.image_loss is not None and stage.discriminator is not None:
            share = stage.image_loss.discriminator_share
            groups.append({"params": list(stage.discriminator.parameters()), "share": share})
        device = stage.trainable()[0].device.type
        # One kernel on a GPU, where dozens would have to be launched.
        self.optimizer = torch.optim.Adam(groups, lr=lr, betas=betas, fused=device == "cuda" or None)
        self.scaler = torch.amp.GradScaler(device, enabled=engine.mixed_precision == "fp16")
        self.average: AveragedModel | None = None
        if engine.ema_decay is not None:
            self.average = AveragedModel(stage.network, multi_avg_fn=get_ema_multi_avg_fn(engine.ema_decay))
        self.step = 0
        """Finished steps, the skipped ones among them."""
        self.skipped = 0
        """Steps that were skipped for a loss or gradient that was not finite."""
        self.skipped_in_row = 0
        """Those of them since the last that was not."""
        self.best: float | None = None
        """The highest PSNR-Y that a validation found, in dB."""

    def set_learning_rate(self, rate: float) -> None:
        """Set the network's learning rate; the discriminator's stays in proportion."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]

    def applied(self) -> None:
        """The optimizer has moved the network."""
        for group in self.optimizer.param_groups:
            if group["fused"]:  # which does not tell torch's version counters, and `Kept` has to see it
                torch.autograd.graph.increment_version(group["params"])
        self.skipped_in_row = 0
        if self.average is not None:
            self.average.update_parameters(self.stage.network)

    def skip(self) -> None:
        """The step has moved nothing."""
        self.skipped += 1
        self.skipped_in_row += 1

    def note(self, psnr_y: float) -> bool:
        """Take a validation's result; returns whether it is the best. NaN never is."""
        if math.isnan(psnr_y) or (self.best is not None and psnr_y <= self.best):
            return False
        self.best = psnr_y
        return True

    def published(self) -> Network:
        """The network to validate and publish: the average where there is one."""
        if self.average is None:
            return self.stage.network
        return cast(Network, self.average.module)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the network's parameters."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "best": self.best,
            "validation": self.validation,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "carried": self.stage.carried(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.step = int(state["step"])
        self.best = state["best"] if state.get("validation") == self.validation else None
        self.skipped, self.skipped_in_row = int(state["skipped"]), int(state["skipped_in_row"])
        optimizer = state["optimizer"]
        for group in optimizer["param_groups"]:  # the device's choice, not the checkpoint's
            group["fused"] = self.optimizer.defaults["fused"]
        self.optimizer.load_state_dict(optimizer)
        for parameter, moments in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):  # in the parameter's layout, which a fused optimizer relies on
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.stage.restore_carried(state["carried"])


class Checkpoints:
    """The checkpoints of one stage: folders ``step-XXXXXXXX`` that appear whole or not at all.

    Each has a list of its files' SHA-256, so that one that was damaged later is not taken for a good one.

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

    def save(self, state: TrainingState) -> Path:
        """Write the state, then drop checkpoints before it beyond the newest ``keep``."""
        final = self._path(state.step)
        temporary = self.folder / f".{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_network(state.stage.network, temporary / "network.safetensors")
        with atomic_write(temporary / "state.pt") as file:
            torch.save({**state.state_dict(), "torch_version": str(torch.__version__)}, file)
        hashes = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        write_text(temporary / "files.json", json.dumps(hashes, indent=2))
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
        # Those of later steps, where there are any, must not push this one or those before it out.
        for old in [step for step in self.steps() if step <= state.step][: -self.keep]:
            shutil.rmtree(self._path(old))
        return final

    def newest(self) -> tuple[int | None, list[str]]:
        """Look for the newest checkpoint that is whole, and set damaged newer ones aside as ``damaged-step-XXXXXXXX``.

        Returns:
            Its number of finished steps, None where there is none; and a warning for each that was set aside.
        """
        warnings: list[str] = []
        for step in reversed(self.steps()):
            folder = self._path(step)
            damage = _damage(folder)
            if damage is None:
                return step, warnings
            aside = folder.with_name(f"damaged-{folder.name}")
            if aside.exists():
                shutil.rmtree(aside)
            os.rename(folder, aside)
            warnings.append(f"the checkpoint {folder} is damaged ({damage}): going on without it, it is now {aside}")
        return None, warnings

    def load(self, state: TrainingState, step: int) -> None:
        """Take up the checkpoint at ``step``."""
        folder = self._path(step)
        saved = load_network(folder / "network.safetensors", expect=type(state.stage.network))
        state.stage.network.load_state_dict(saved.state_dict())
        state.load_state_dict(read_pickle(folder / "state.pt"))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _trash(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.trash")


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a few words."""
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
            return f"{name}: {error.strerror}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return flat
