"""The chain of stages: what to run, from which weights, and what is already there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from accelerate import Accelerator

from mrda.config import StageName, TrainConfig
from mrda.core.files import make_folder, remove_leftovers, write_text
from mrda.data import load_patches
from mrda.networks import save_network
from mrda.training.environment import environment
from mrda.training.errors import refusals
from mrda.training.interrupt import deferred_interrupt
from mrda.training.loop import run_stage
from mrda.training.mln import BicubicStage, MetaStage
from mrda.training.plan import StagePlan, plan_stage
from mrda.training.processes import Processes
from mrda.training.report import Bars, check_log
from mrda.training.stage import INPUTS, Stage, start_from
from mrda.training.state import (
    Checkpoints,
    check_folder,
    check_recipe,
    discard,
    provenance,
    recipe_of,
    tidy,
    write_recipe,
)
from mrda.training.student import StudentStage
from mrda.training.teacher import TeacherStage
from mrda.training.validation import Validation
from mrda.training.visual import check_image_loss
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
    announce: Callable[[list[StagePlan]], None] | None = None,
) -> dict[StageName, Path]:
    """Train the stages one after the other, in this process or in all that a launcher has started.

    ``run_dir`` then holds ``config.yaml``, ``environment.json`` and a folder for each stage: ``weights.safetensors``,
    ``best.safetensors`` (the best by validation, where there is any), ``recipe.json``, ``checkpoints/``,
    ``log.jsonl`` and ``tensorboard/``. Several processes must see the same ``run_dir``.

    Args:
        config: see `mrda.config.load.load_config`.
        run_dir: folder of the run; made if missing.
        stages: any of ``bicubic``, ``meta``, ``teacher``, ``student``, run in that order; None is `train.stages`.
        resume: skip finished stages and continue from the newest checkpoint; False discards what the chosen
            stages have left in ``run_dir``.
        progress: show progress on the terminal.
        announce: is told what the run is going to do, before it does it.

    Returns:
        The final weights by stage.

    Raises:
        RunRefusedError: (a ValueError) an unknown stage; unusable photos; a ``run_dir`` that can't be a folder; weights
            of an earlier stage that are missing, unreadable or of other sizes; results in ``run_dir`` that come from
            another configuration, or that no run has written so; micro-batches that can't be shared out among the
            processes, or can't adapt together.
        FloatingPointError: the training diverged.
        KeyboardInterrupt: on SIGINT or SIGTERM, after a checkpoint, or a stage's weights, have been saved.
    """
    run_dir = Path(run_dir)
    with refusals():
        chosen = in_order(config.train.stages if stages is None else stages)
        config.check_stages(chosen)
        processes = Processes(Accelerator(mixed_precision="no"), config.train.micro_batches)
        # From here on the number is in the config, as the results depend on it.
        config = _with_micro_batches(config, processes.micro_batches)
        _check_adapt_sync(config, chosen, processes.count)
        if config.real.queue_size and config.degradation.type == "real" and processes.count > 1:
            raise ValueError("real.queue_size needs a single process, whose pool a checkpoint can hold: set it to 0")
        inputs = {name: _inputs(name, config, run_dir, chosen) for name in chosen}
        made_here = _made_here(run_dir, chosen, resume)
        _check_inputs(inputs, config, made_here)
        check_image_loss(config, [name for name in chosen if weights_path(run_dir, name).resolve() in made_here])
        make_folder(run_dir, "run directory")
    total = {name: work(config, name, config.stage(name).steps) for name in chosen}
    with Bars(progress and processes.is_main, sum(total.values())) as bars:
        with refusals():
            patches = load_patches(config.data, config.scale, bars.reading)
            validation = Validation(config) if config.validation.sources else None
            for name in chosen:
                check_folder(run_dir / name)
                if resume and all(path.is_file() for path in inputs[name].values()):
                    check_recipe(run_dir / name, recipe_of(STAGES[name], config, inputs[name]))
                if resume and not weights_path(run_dir, name).is_file():
                    check_log(run_dir / name)
        if announce is not None and processes.is_main:
            announce([_plan(name, config, run_dir, resume, processes) for name in chosen])
        processes.wait()
        if processes.is_main:
            for name in chosen:
                tidy(run_dir / name)
                if not resume:
                    discard(run_dir / name)
            for file, text in (
                ("config.yaml", config.to_yaml()),
                ("environment.json", json.dumps(environment(processes.count), indent=2) + "\n"),
            ):
                remove_leftovers(run_dir / file)
                write_text(run_dir / file, text)

        with deferred_interrupt() as interrupted:
            for name in chosen:
                processes.wait()
                _stop_between_stages(interrupted, processes, bars)
                folder, weights = run_dir / name, weights_path(run_dir, name)
                # Checked once more: an earlier stage may have changed this one's input weights by now.
                recipe = recipe_of(STAGES[name], config, inputs[name])
                check_recipe(folder, recipe)
                if weights.is_file():
                    bars.skip(total[name])
                    continue
                processes.wait()
                if processes.is_main:
                    write_recipe(folder, recipe)
                facts = provenance(name, recipe)
                stage = STAGES[name](config, inputs[name])
                if "network" in inputs[name]:
                    start_from(stage.network, inputs[name]["network"])
                checkpoints = Checkpoints(folder / "checkpoints", keep=config.train.keep_checkpoints)
                network = run_stage(
                    stage, config, patches, folder, facts, checkpoints, processes, bars, validation, interrupted
                )
                if processes.is_main:
                    save_network(network, weights, step=str(config.stage(name).steps), **facts)
            processes.wait()
            _stop_between_stages(interrupted, processes, bars)
    return {name: weights_path(run_dir, name) for name in chosen}


def weights_path(run_dir: Path, stage: StageName) -> Path:
    """Where a run keeps the final weights of a stage."""
    return run_dir / stage / "weights.safetensors"


def _stop_between_stages(interrupted: Callable[[], bool], processes: Processes, bars: Bars) -> None:
    """Heed a signal that came after the last step of a stage had looked for one."""
    if processes.any(interrupted()):
        bars.say("interrupted: the weights of the stages that are finished are saved, the same command goes on")
        raise KeyboardInterrupt


def _check_adapt_sync(config: TrainConfig, chosen: Iterable[StageName], processes: int) -> None:
    """Refuse what can't adapt one MLN to all micro-batches; then their number, which the recipe holds, is enough."""
    if not config.train.adapt_sync:
        return
    if config.train.micro_batches != processes:
        raise ValueError(
            "train.adapt_sync needs one micro-batch for each process, as it adapts one MLN to those of all processes: "
            f"train.micro_batches is {config.train.micro_batches}, the processes are {processes}"
        )
    if config.adaptation.per == "image":
        raise ValueError("train.adapt_sync needs adaptation.per: batch, for else each image adapts weights of its own")
    if "meta" in chosen and config.meta.maml_order == 2 and processes > 1:
        raise ValueError(
            "train.adapt_sync needs meta.maml_order 1 on several processes, for second order gradients do not pass "
            "from one to another"
        )


def _with_micro_batches(config: TrainConfig, number: int) -> TrainConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"micro_batches": number})})


def _plan(name: StageName, config: TrainConfig, run_dir: Path, resume: bool, processes: Processes) -> StagePlan:
    done = 0
    if resume:
        steps = Checkpoints(run_dir / name / "checkpoints", keep=1).steps()
        done = config.stage(name).steps if weights_path(run_dir, name).is_file() else max(steps, default=0)
    return plan_stage(config, name, done=done, micro_batches=processes.micro_batches)


def in_order(stages: Iterable[StageName]) -> list[StageName]:
    """The stages in the order they are run in.

    Raises:
        ValueError: there is none, or an unknown one.
    """
    wanted = list(stages)
    unknown = [name for name in wanted if name not in STAGES]
    if unknown or not wanted:
        raise ValueError(f"stages is {wanted}, but must be some of {', '.join(STAGES)}")
    return [name for name in STAGES if name in wanted]


def _inputs(name: StageName, config: TrainConfig, run_dir: Path, chosen: list[StageName]) -> dict[str, Path]:
    """The weights that a stage starts from; each is there already or made earlier in this very run."""
    paths = {}
    for key, maker in STAGES[name].inputs(config).items():
        given: Path | None = getattr(config.stage(name), f"init_{key}")
        paths[key] = given or weights_path(run_dir, maker)
        if not os.path.isfile(paths[key]) and (given is not None or maker not in chosen):
            raise ValueError(
                f"stage '{name}' needs the weights {paths[key]}, which do not exist: "
                f"train stage '{maker}' first or set {name}.init_{key}"
            )
    leg = config.stage(name).init_network
    if leg is not None:
        if not os.path.isfile(leg):
            raise ValueError(f"{name}.init_network is {leg}, but there is no such file: name the weights to start from")
        paths["network"] = leg
    return paths


def _made_here(run_dir: Path, chosen: list[StageName], resume: bool) -> set[Path]:
    """The final weights that this run is going to write, and not only to find."""
    weights = (weights_path(run_dir, name) for name in chosen)
    return {path.resolve() for path in weights if not (resume and os.path.isfile(path))}


def _check_inputs(inputs: Mapping[StageName, Mapping[str, Path]], config: TrainConfig, made_here: set[Path]) -> None:
    """Load all weights that are there from the start, so that an unusable file costs no training."""
    for name, paths in inputs.items():
        for key, path in paths.items():
            if key == "network" and path.resolve().parent in {made.parent for made in made_here}:
                raise ValueError(
                    f"{name}.init_network is {path}, where this run writes its own: use another run directory"
                )
            if key == "network":
                start_from(STAGES[name].build(config), path)
            elif path.resolve() not in made_here:
                INPUTS[key](config, path)
