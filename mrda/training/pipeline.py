"""The chain of stages: what to run, from which weights, and what is already there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from accelerate import Accelerator

from mrda.config import StageName, TrainConfig
from mrda.data import load_patches
from mrda.files import atomic_write
from mrda.training.loop import run_stage
from mrda.training.mln import BicubicStage, MetaStage
from mrda.training.report import Bars
from mrda.training.stage import Stage
from mrda.training.state import Checkpoints, check_recipe, recipe_of, save_weights, write_recipe
from mrda.training.student import StudentStage
from mrda.training.teacher import TeacherStage
from mrda.training.work import work_per_step

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
        ValueError: an unknown stage; unusable photos; weights of an earlier stage that are missing or of
            other sizes; results in ``run_dir`` that come from another configuration.
        FloatingPointError: the training diverged.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint has been saved.
    """
    run_dir = Path(run_dir)
    chosen = _in_order(stages)
    accelerator = Accelerator(mixed_precision="no")
    if accelerator.num_processes > 1:
        raise ValueError(f"training runs in one process, it was launched in {accelerator.num_processes}")
    inputs = {name: _inputs(name, config, run_dir, chosen) for name in chosen}
    run_dir.mkdir(parents=True, exist_ok=True)
    work = {name: config.stage(name).steps * work_per_step(config, name) for name in chosen}
    with Bars(progress, sum(work.values())) as bars:
        patches = load_patches(config.data, config.scale, bars.reading)
        for name in chosen:
            if not resume:
                shutil.rmtree(run_dir / name, ignore_errors=True)
            elif all(path.is_file() for path in inputs[name].values()):
                check_recipe(run_dir / name, recipe_of(STAGES[name], config, inputs[name]))
        with atomic_write(run_dir / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")

        for name in chosen:
            folder, weights = run_dir / name, weights_path(run_dir, name)
            # Checked once more: an earlier stage may have changed this one's input weights by now.
            recipe = recipe_of(STAGES[name], config, inputs[name])
            check_recipe(folder, recipe)
            if weights.is_file():
                bars.skip(work[name])
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
        raise ValueError(f"stages must be some of {', '.join(STAGES)}, it was {wanted}")
    return [name for name in STAGES if name in wanted]


def _inputs(name: StageName, config: TrainConfig, run_dir: Path, chosen: list[StageName]) -> dict[str, Path]:
    """The weights that a stage starts from; each is there already or made earlier in this very run."""
    paths = {}
    for key, maker in STAGES[name].inputs.items():
        given: Path | None = getattr(config.stage(name), f"init_{key}")
        paths[key] = given or weights_path(run_dir, maker)
        if not paths[key].is_file() and (given is not None or maker not in chosen):
            raise ValueError(
                f"stage '{name}' needs the weights {paths[key]}, which do not exist: "
                f"train stage '{maker}' first or set {name}.init_{key}"
            )
    return paths
