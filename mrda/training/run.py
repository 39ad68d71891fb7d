# SPDX-License-Identifier: Apache-2.0
"""A run: several stages in one folder, each from the weights of those before it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from accelerate import Accelerator

from mrda.config import StageName, TrainConfig
from mrda.core.environment import environment, has_bfloat16
from mrda.core.faults import reason
from mrda.core.files import new_folder, remove_leftovers, write_text
from mrda.core.progress import NoProgress, Progress, TerminalProgress
from mrda.data.pairs import load_pairs
from mrda.data.patches import load_patches
from mrda.networks import save_network
from mrda.training.checkpoints import (
    Checkpoints,
    RunStoppedError,
    check_folder,
    check_recipe,
    discard,
    provenance,
    recipe_of,
    refusals,
    tidy,
    write_recipe,
)
from mrda.training.components import LOADERS, load_initial_weights
from mrda.training.log import RunProgress, check_log
from mrda.training.losses import check_image_loss
from mrda.training.plan import StagePlan, plan_stage
from mrda.training.processes import Processes, deferred_interrupt
from mrda.training.stages import STAGES
from mrda.training.trackers import check_tracker
from mrda.training.trainer import Trainer
from mrda.training.validation import Validation

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    run_dir: str | Path,
    *,
    stages: Iterable[StageName] | None = None,
    resume: bool = True,
    progress: bool = True,
) -> dict[StageName, Path]:
    """Train stages one after the other, in this process or in all processes that a launcher has started.

    See `Run` for the arguments and `Run.train` for the errors.

    Returns:
        The final weights by stage.
    """
    return Run(config, run_dir, stages=stages, resume=resume, progress=progress).train()


class Run:
    """A run of several stages, checked and ready to train.

    ``run_dir`` gets ``config.yaml``, ``environment.json`` and a folder for each stage: ``weights.safetensors``,
    ``best.safetensors`` (the best by validation, if there is any), ``recipe.json``, ``checkpoints/``, ``log.jsonl``
    and, of the tracker TensorBoard, ``tensorboard/``. Several processes must see the same ``run_dir``.

    Args:
        config: see `mrda.config.load.load_config`.
        run_dir: folder of the run; made if missing.
        stages: any of ``bicubic``, ``meta``, ``teacher``, ``student``, run in that order; None is `train.stages`.
        resume: skip finished stages and continue from the newest checkpoint; False deletes the results of these stages
            in ``run_dir`` first.
        progress: show progress bars if stderr is a terminal.

    Raises:
        RunRefusedError: (a ValueError) an unknown stage; unusable photos; a ``run_dir`` that can't be a folder; weights
            of an earlier stage that are missing, unreadable or of other sizes; results in ``run_dir`` that come from
            another configuration or were not written by a run; micro-batches that can't be divided among the processes,
            or can't adapt together.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_dir: str | Path,
        *,
        stages: Iterable[StageName] | None = None,
        resume: bool = True,
        progress: bool = True,
    ) -> None:
        self.folder = Path(run_dir)
        self.resume = resume
        with refusals():
            self.stages = in_order(config.train.stages if stages is None else stages)
            config.check_stages(self.stages)
            check_tracker(config.train.tracker)
            self.processes = Processes(Accelerator(mixed_precision="no"), config.train.micro_batches)
            # The results depend on the number of micro-batches, so that the recipe must have it.
            engine = config.train.model_copy(update={"micro_batches": self.processes.micro_batches})
            self.config = config = config.model_copy(update={"train": engine})
            check_processes(config, self.stages, self.processes.count)
            self.inputs = {name: self._input_paths(name) for name in self.stages}
            self._check_inputs()
            emulated = config.train.mixed_precision == "bf16" and not has_bfloat16(self.processes.device)
            if emulated and self.processes.is_main:
                logger.warning(
                    "this processor emulates bfloat16, many times slower: train with --set train.mixed_precision=%s",
                    "fp16" if self.processes.device.type == "cuda" else "no",
                )
            shows_bars = progress and self.processes.is_main
            self.bars: Progress = TerminalProgress() if shows_bars else NoProgress()
            load = load_pairs if config.data.pairs else load_patches
            with new_folder(self.folder, "run directory"):  # before the photos, which can take minutes to read
                self.patches = load(config.data, config.scale, self.bars)
                self.validation = Validation(config) if config.validation.is_on else None
                for name in self.stages:
                    self._check_stage_folder(name)

    @property
    def is_main(self) -> bool:
        """True in one of the processes of the run: the one that writes files and logs."""
        return self.processes.is_main

    def plan(self) -> list[StagePlan]:
        """Numbers of each stage: steps, finished steps, parameters, memory."""
        plans = []
        for name in self.stages:
            done = 0
            if self.resume:
                steps = Checkpoints(self.folder / name / "checkpoints", keep=1).steps()
                finished = weights_path(self.folder, name).is_file()
                done = self.config.stage(name).steps if finished else max(steps, default=0)
            plans.append(plan_stage(self.config, name, done=done, micro_batches=self.processes.micro_batches))
        return plans

    def train(self) -> dict[StageName, Path]:
        """Train the stages.

        Returns:
            The final weights by stage.

        Raises:
            RunRefusedError: results in the run directory have changed since the check.
            FloatingPointError: the training diverged.
            KeyboardInterrupt: on SIGINT or SIGTERM, after a checkpoint, or a stage's weights, have been saved.
            RunStoppedError: a file can't be written or read, such as on a full disk; what was saved before is kept.
        """
        try:
            return self._train()
        except OSError as error:
            raise RunStoppedError(self._stopped(error)) from error

    def _train(self) -> dict[StageName, Path]:
        self.processes.wait()
        if self.is_main:
            self._prepare_folder()
        shows_bars = isinstance(self.bars, TerminalProgress) and self.bars.console.is_terminal
        lines = self.is_main and not shows_bars
        with (
            RunProgress(NoProgress() if lines else self.bars, self.config, self.stages, lines=lines) as progress,
            deferred_interrupt() as stop_requested,
        ):
            for name in self.stages:
                self._stop_between_stages(stop_requested)
                self._train_stage(name, progress, stop_requested)
            self._stop_between_stages(stop_requested)
        return {name: weights_path(self.folder, name) for name in self.stages}

    def _stopped(self, error: OSError) -> str:
        """Say why the run stopped, what is kept, and how to go on."""
        kept = []
        for name in self.stages:
            steps = Checkpoints(self.folder / name / "checkpoints", keep=1).steps()
            if weights_path(self.folder, name).is_file():
                kept.append(f"the weights of stage '{name}'")
            elif steps:
                kept.append(f"stage '{name}' up to the checkpoint of step {max(steps)}")
        where = self.folder if error.filename is None else os.fsdecode(error.filename)
        return (
            f"training stopped at {where}: {reason(error)}; "
            f"kept: {' and '.join(kept) or 'nothing, as no checkpoint was saved'}; "
            "correct that and run the same command again, which continues from there"
        )

    def _train_stage(self, name: StageName, progress: RunProgress, stop_requested: Callable[[], bool]) -> None:
        """Train one stage, unless its weights are there already."""
        config, inputs = self.config, self.inputs[name]
        folder, weights = self.folder / name, weights_path(self.folder, name)
        # Checked again, because an earlier stage may have changed this one's input weights.
        recipe = recipe_of(STAGES[name], config, inputs)
        check_recipe(folder, recipe)
        if weights.is_file():
            progress.skip(name, config.stage(name).steps)
            return
        self.processes.wait()
        if self.is_main:
            write_recipe(folder, recipe)
        stage = STAGES[name](config, inputs)
        if "network" in inputs:
            load_initial_weights(stage.network, inputs["network"])
        trainer = Trainer(stage, config, self.processes, validation=self.validation, stop_requested=stop_requested)
        metadata = provenance(name, recipe)
        network = trainer.train(self.patches, folder, metadata, progress)
        if self.is_main:
            save_network(network, weights, step=str(config.stage(name).steps), **metadata)

    def _stop_between_stages(self, stop_requested: Callable[[], bool]) -> None:
        """Stop if a signal came after the last step of a stage."""
        self.processes.wait()
        if self.processes.any(stop_requested()):
            if self.is_main:
                logger.warning(
                    "interrupted: the weights of finished stages are saved, and the same command continues from them"
                )
            raise KeyboardInterrupt

    def _prepare_folder(self) -> None:
        for name in self.stages:
            tidy(self.folder / name)
            if not self.resume:
                discard(self.folder / name)
        description = json.dumps(environment(self.processes.count), indent=2) + "\n"
        for file, text in (("config.yaml", self.config.to_yaml()), ("environment.json", description)):
            remove_leftovers(self.folder / file)
            write_text(self.folder / file, text)

    # Checks

    def _input_paths(self, name: StageName) -> dict[str, Path]:
        """Weights that a stage starts from; each exists already or is made by an earlier stage of this run."""
        section, paths = self.config.stage(name), {}
        for key, source in STAGES[name].inputs(self.config).items():
            given: Path | None = getattr(section, f"init_{key}")
            paths[key] = given or weights_path(self.folder, source)
            if not os.path.isfile(paths[key]) and (given is not None or source not in self.stages):
                raise ValueError(
                    f"stage '{name}' requires the weights {paths[key]}, which do not exist: "
                    f"train stage '{source}' first or set {name}.init_{key}"
                )
        if section.init_network is not None:
            if not os.path.isfile(section.init_network):
                raise ValueError(
                    f"{name}.init_network is {section.init_network}, but there is no such file: "
                    "name the weights to start from"
                )
            paths["network"] = section.init_network
        return paths

    def _check_inputs(self) -> None:
        """Load all input weights that exist from the start, so that an unusable file costs no training."""
        unfinished = [
            name for name in self.stages if not (self.resume and os.path.isfile(weights_path(self.folder, name)))
        ]
        made_here = {weights_path(self.folder, name).resolve() for name in unfinished}
        for name, paths in self.inputs.items():
            for key, path in paths.items():
                if key == "network":
                    if path.resolve().parent in {made.parent for made in made_here}:
                        raise ValueError(
                            f"{name}.init_network is {path}, where this run writes its own: use another run directory"
                        )
                    load_initial_weights(STAGES[name].build(self.config), path)
                elif path.resolve() not in made_here:
                    LOADERS[key](self.config, path)
        check_image_loss(self.config, unfinished)

    def _check_stage_folder(self, name: StageName) -> None:
        folder, inputs = self.folder / name, self.inputs[name]
        check_folder(folder)
        if self.resume and all(path.is_file() for path in inputs.values()):
            check_recipe(folder, recipe_of(STAGES[name], self.config, inputs))
        if self.resume and not weights_path(self.folder, name).is_file():
            check_log(folder)


def weights_path(run_dir: Path, stage: StageName) -> Path:
    """Path of a stage's final weights in a run directory."""
    return run_dir / stage / "weights.safetensors"


def in_order(stages: Iterable[StageName]) -> list[StageName]:
    """The stages in the order they are trained in.

    Raises:
        ValueError: there is none, or an unknown one.
    """
    wanted = list(stages)
    unknown = [name for name in wanted if name not in STAGES]
    if unknown or not wanted:
        raise ValueError(f"stages is {wanted}, but must be some of {', '.join(STAGES)}")
    return [name for name in STAGES if name in wanted]


def check_processes(config: TrainConfig, stages: Iterable[StageName], processes: int) -> None:
    """Check options that limit the number of processes.

    Raises:
        ValueError: `real.queue_size` with several processes; `train.adapt_sync` with an option that it excludes.
    """
    if config.real.queue_size and config.degradation.type == "real" and processes > 1:
        raise ValueError("real.queue_size requires a single process, whose pool a checkpoint can hold: set it to 0")
    if not config.train.adapt_sync:
        return
    if config.train.micro_batches != processes:
        raise ValueError(
            "train.adapt_sync requires one micro-batch for each process, because it adapts one MLN to those of all "
            f"processes: train.micro_batches is {config.train.micro_batches}, the processes are {processes}"
        )
    if config.adaptation.per == "image":
        raise ValueError(
            "train.adapt_sync requires adaptation.per=batch: with adaptation.per=image every image adapts its own MLN"
        )
    if "meta" in stages and config.meta.maml_order == 2 and processes > 1:
        raise ValueError(
            "train.adapt_sync requires meta.maml_order=1 on several processes, because second-order gradients do not "
            "pass from one process to another"
        )
