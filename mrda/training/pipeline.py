"""The chain of stages: what to run, from which weights, and what is already there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from accelerate import Accelerator

from mrda.config import StageName, TrainConfig
from mrda.data import load_patches
from mrda.files import atomic_write
from mrda.training.errors import refusing
from mrda.training.loop import run_stage
from mrda.training.mln import BicubicStage, MetaStage
from mrda.training.report import Bars
from mrda.training.stage import INPUTS, Stage
from mrda.training.state import Checkpoints, check_recipe, discard, recipe_of, save_weights, write_recipe
from mrda.training.student import StudentStage
from mrda.training.teacher import TeacherStage
from mrda.training.work import work

STAGES: dict[StageName, type[Stage]] = {
    "bicubic": BicubicStage,
    "meta": MetaStage,
    "teacher": TeacherStage,
    "student": StudentStage,
}


def train(
    config: TrainConfig,
    run_dir: str | Path,
    *,
    stages: Iterable[StageName] | None = None,
    resume: bool = True,
    progress: bool = True,
) -> dict[StageName, Path]:
    """Train the stages one after the other.

    ``run_dir`` then holds ``config.yaml`` and a folder for each stage: ``weights.safetensors``,
    ``recipe.json``, ``checkpoints/``, ``log.jsonl`` and ``tensorboard/``.

    Args:
        config: see `mrda.config.load_config`.
        run_dir: folder of the run; made if missing.
        stages: any of ``bicubic``, ``meta``, ``teacher``, ``student``, run in that order; None is all.
        resume: skip finished stages and continue from the newest checkpoint; False discards what the chosen
            stages have left in ``run_dir``.
        progress: show progress bars on the terminal.

    Returns:
        The final weights by stage.

    Raises:
        RunRefusedError: (a ValueError) an unknown stage; unusable photos; a ``run_dir`` that can't be a folder; weights
            of an earlier stage that are missing, unreadable or of other sizes; results in ``run_dir`` that come from
            another configuration, or a damaged checkpoint.
        FloatingPointError: the training diverged.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint has been saved.
    """
    run_dir = Path(run_dir)
    with refusing():
        chosen = _in_order(stages)
        accelerator = Accelerator(mixed_precision="no")
        if accelerator.num_processes > 1:
            raise ValueError(f"the run has {accelerator.num_processes} processes, but must have one")
        inputs = {name: _inputs(name, config, run_dir, chosen) for name in chosen}
        _check_inputs(inputs, config, _made_here(run_dir, chosen, resume))
        _make_folder(run_dir)
    total = {name: work(config, name, config.stage(name).steps) for name in chosen}
    with Bars(progress, sum(total.values())) as bars:
        with refusing():
            patches = load_patches(config.data, config.scale, bars.reading)
            for name in chosen:
                if resume and all(path.is_file() for path in inputs[name].values()):
                    check_recipe(run_dir / name, recipe_of(STAGES[name], config, inputs[name]))
        if not resume:
            for name in chosen:
                discard(run_dir / name)
        with atomic_write(run_dir / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")

        for name in chosen:
            folder, weights = run_dir / name, weights_path(run_dir, name)
            # Checked once more: an earlier stage may have changed this one's input weights by now.
            recipe = recipe_of(STAGES[name], config, inputs[name])
            check_recipe(folder, recipe)
            if weights.is_file():
                bars.skip(total[name])
                continue
            write_recipe(folder, recipe)
            stage = STAGES[name](config, inputs[name])
            checkpoints = Checkpoints(folder / "checkpoints", keep=config.keep_checkpoints)
            run_stage(stage, config, patches, folder, checkpoints, accelerator, bars)
            save_weights(weights, stage.network, recipe)
    return {name: weights_path(run_dir, name) for name in chosen}


def weights_path(run_dir: Path, stage: StageName) -> Path:
    """Where a run keeps the final weights of a stage."""
    return run_dir / stage / "weights.safetensors"


def _in_order(stages: Iterable[StageName] | None) -> list[StageName]:
    wanted = list(STAGES if stages is None else stages)
    unknown = [name for name in wanted if name not in STAGES]
    if unknown or not wanted:
        raise ValueError(f"stages is {wanted}, but must be some of {', '.join(STAGES)}")
    return [name for name in STAGES if name in wanted]


def _inputs(name: StageName, config: TrainConfig, run_dir: Path, chosen: list[StageName]) -> dict[str, Path]:
    """The weights that a stage starts from; each is there already or made earlier in this very run."""
    paths = {}
    for key, maker in STAGES[name].inputs.items():
        given: Path | None = getattr(config.stage(name), f"init_{key}")
        paths[key] = given or weights_path(run_dir, maker)
        if not os.path.isfile(paths[key]) and (given is not None or maker not in chosen):
            raise ValueError(
                f"stage '{name}' needs the weights {paths[key]}, which do not exist: "
                f"train stage '{maker}' first or set {name}.init_{key}"
            )
    return paths


def _made_here(run_dir: Path, chosen: list[StageName], resume: bool) -> set[Path]:
    """The final weights that this run is going to write, and not only to find."""
    weights = (weights_path(run_dir, name) for name in chosen)
    return {path.resolve() for path in weights if not (resume and os.path.isfile(path))}


def _check_inputs(inputs: Mapping[StageName, Mapping[str, Path]], config: TrainConfig, made_here: set[Path]) -> None:
    """Load all weights that are there from the start, so that an unusable file costs no training."""
    for paths in inputs.values():
        for key, path in paths.items():
            if path.resolve() not in made_here:
                INPUTS[key](config, path)


def _make_folder(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the run directory {run_dir} can't be made: {error.strerror}") from error
