"""The training loop that all stages share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mrda.config import TrainConfig
from mrda.core.randomness import generator
from mrda.data import PatchSampler
from mrda.data.prefetch import Prefetcher
from mrda.networks import Network, save_network
from mrda.training.gradients import Compute, build_backward
from mrda.training.processes import Processes
from mrda.training.report import Bars, ScalarLog
from mrda.training.schedule import learning_rate
from mrda.training.stage import Stage
from mrda.training.state import Checkpoints, TrainingState
from mrda.training.validation import Validation
from mrda.training.work import work

Place = tuple[int, int, int | None]
"""Where patches belong: step, micro-batch, and task where each task has its own."""


@dataclass(frozen=True)
class Outcome:
    """What a step did.

    Args:
        scalars: the stage's scalars, averaged over tasks, micro-batches and processes, and the gradient's 2-norm.
        fault: what was not finite, for which the step was skipped.
        interrupted: whether any process was told to stop.
    """

    scalars: dict[str, float]
    fault: str | None
    interrupted: bool


def run_stage(
    stage: Stage,
    config: TrainConfig,
    patches: PatchSampler,
    folder: Path,
    provenance: Mapping[str, str],
    checkpoints: Checkpoints,
    processes: Processes,
    bars: Bars,
    validation: Validation | None = None,
    interrupted: Callable[[], bool] = bool,
) -> Network:
    """Train ``stage.network`` in place, from the newest whole checkpoint where there is one.

    Args:
        stage: the stage; its networks move to the device of this process.
        config: the run's configuration.
        patches: source of HR patches.
        folder: the stage's folder, for its log and its best weights.
        provenance: metadata of the best weights.
        checkpoints: where checkpoints are looked for and saved.
        processes: the processes that share the work.
        bars: progress bars.
        validation: what to measure from time to time; None measures nothing.
        interrupted: asked once in each step whether this process is to stop.

    Returns:
        The network to publish: the trained one, or the average of it where there is one.

    Raises:
        FloatingPointError: losses or gradients were not finite in more than `train.max_nonfinite` steps in a row; none
            of these steps has changed a weight.
        KeyboardInterrupt: a process is to stop; the step is finished and a checkpoint saved. What comes after the look
            of the last step is left to the caller.
    """
    section, engine = config.stage(stage.name), config.train
    stage.to(processes.device, channels_last=engine.channels_last)
    if engine.adapt_sync:
        stage.inner_mean = processes.mean
    judge = None if validation is None else validation.fingerprint
    state = TrainingState(stage, section.lr, engine, section.betas, validation=judge)
    if engine.compile:
        stage.compile()
    # One process decides, for they might find different ones while a disk fails.
    newest, warnings = processes.broadcast(checkpoints.newest() if processes.is_main else (None, []))
    for warning in warnings:
        bars.say(warning)
    if newest is not None:
        checkpoints.load(state, newest)
    backward = build_backward(stage, engine, state.scaler, processes.micro_batches, processes.device)
    best = folder / "best.safetensors"
    if state.best is None and processes.is_main and best.exists():
        best.unlink()
        bars.say(f"removed {best}: no checkpoint tells what it scored under this validation")
    start = state.step
    advance = bars.stage(stage.name, section.steps, start, partial(work, config, stage.name))
    places = _places(stage, range(start, section.steps), processes.mine())
    read = partial(_read, stage, config, patches)
    pin = processes.device.type == "cuda"

    with (
        ScalarLog(folder, start, writes=processes.is_main) as log,
        Prefetcher(read, places, depth=engine.prefetch, pin_memory=pin) as batches,
    ):
        stream = (hr for _, hr in batches)
        for step in range(start, section.steps):
            rate = learning_rate(section, step)
            state.set_learning_rate(rate)
            began, waited = time.perf_counter(), batches.waited
            outcome = train_step(stage, step, config, state, stream, processes, backward, interrupted)
            seconds = time.perf_counter() - began
            done = state.step

            if outcome.fault is None:
                log.add(
                    outcome.scalars
                    | {
                        "images_per_second": section.batch * processes.micro_batches / seconds,
                        "data_wait": (batches.waited - waited) / seconds,
                    }
                )
            else:
                log.skipped(done, outcome.fault)
                if state.skipped_in_row > engine.max_nonfinite:
                    raise FloatingPointError(
                        f"stage '{stage.name}' stopped: {outcome.fault} in step {done}, the last of "
                        f"{state.skipped_in_row} in a row that were skipped and have changed no weight: a lower "
                        f"{stage.name}.lr or a train.gradient_clip may help, in another run directory or without "
                        "resuming"
                    )
            last = done == section.steps
            if done % engine.log_every == 0 or last:
                record = log.record(done, lr=rate, skipped_steps=float(state.skipped))
                bars.record(stage.name, done, section.steps, record)
            if validation is not None and (done % config.validation.every == 0 or last):
                _validate(stage, state, validation, folder, provenance, log, processes)
            advance(f"loss {outcome.scalars['loss']:.4f}, waits {(batches.waited - waited) / seconds:.0%}")
            if processes.is_main and (outcome.interrupted or done % engine.checkpoint_every == 0):
                saved = checkpoints.save(state)
                if outcome.interrupted:
                    bars.say(f"interrupted: saved {saved}, from which the same command goes on")
            if outcome.interrupted:
                processes.wait()
                raise KeyboardInterrupt
    return state.published()


def train_step(
    stage: Stage,
    step: int,
    config: TrainConfig,
    state: TrainingState,
    batches: Iterator[Tensor],
    processes: Processes,
    backward: Compute,
    interrupted: Callable[[], bool] = bool,
) -> Outcome:
    """One optimizer step on the mean loss of all micro-batches.

    Args:
        stage: the stage.
        step: number of the step, from 0.
        config: the run's configuration.
        state: what the step moves.
        batches: HR patches (B, 3, H, W) uint8 for this process's micro-batches, in their order.
        processes: the processes that share the micro-batches.
        backward: what computes the losses and their gradients.
        interrupted: asked once, at the end, whether this process is to stop.
    """
    device, engine = processes.device, config.train
    sums: dict[str, Tensor] = {}
    state.optimizer.zero_grad()
    for micro_batch in processes.mine():
        who = "all" if engine.adapt_sync else micro_batch
        draws = generator(config.seed, stage.name, step, who, "degradation", device=device)
        hr: Tensor | None = None
        for _ in range(stage.tasks):
            if hr is None or stage.hr_per_task:
                hr = next(batches).to(device, non_blocking=True).float() / 255
            for name, value in backward(step, stage.degrade(hr, draws)).items():
                part = value.float() / (processes.micro_batches * stage.tasks)
                sums[name] = sums[name] + part if name in sums else part

    gradients = processes.sum_gradients(stage.trainable())
    norms = {"gradient_norm": gradients}
    if stage.discriminator is not None:
        norms["discriminator_gradient_norm"] = processes.sum_gradients(list(stage.discriminator.parameters()))
    state.scaler.unscale_(state.optimizer)
    found = {name: torch.nn.utils.get_total_norm(tensors) for name, tensors in norms.items()}
    flag = torch.tensor(float(interrupted()), device=device)  # once: a signal between two looks would be lost
    *totals, stopping = processes.sum([*sums.values(), flag])
    # One look at the device for all of them.
    *values, stop = torch.stack([*totals, *(norm.float() for norm in found.values()), stopping]).tolist()
    scalars = dict(zip([*sums, *found], values, strict=True))
    fault = next((f"{name} is {value}" for name, value in scalars.items() if not math.isfinite(value)), None)
    state.step = step + 1
    if fault is None:
        if engine.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(stage.trainable(), engine.gradient_clip, found["gradient_norm"])
        state.scaler.step(state.optimizer)
        state.applied()
        stage.finish_step(processes.mean)
    else:
        state.skip()
        stage.discard_step()
    state.scaler.update()
    return Outcome(scalars, fault, stop > 0)


def _places(stage: Stage, steps: Iterable[int], micro_batches: range) -> Iterator[Place]:
    for step in steps:
        for micro_batch in micro_batches:
            if stage.hr_per_task:
                yield from ((step, micro_batch, task) for task in range(stage.tasks))
            else:
                yield step, micro_batch, None


def _read(stage: Stage, config: TrainConfig, patches: PatchSampler, place: Place) -> Tensor:
    step, micro_batch, task = place
    labels = [stage.name, step, micro_batch, "patches", *([] if task is None else [task])]
    batch, size = config.stage(stage.name).batch, stage.hr_size(config)
    return patches.sample(batch, generator(config.seed, *labels), size)


def _validate(
    stage: Stage,
    state: TrainingState,
    validation: Validation,
    folder: Path,
    provenance: Mapping[str, str],
    log: ScalarLog,
    processes: Processes,
) -> None:
    """Measure; keep the weights if none before were better."""
    network = state.published()
    found = validation.measure(stage, network, processes)
    log.validated(state.step, found)
    if state.note(found.psnr_y) and processes.is_main:
        save_network(
            network,
            folder / "best.safetensors",
            step=str(state.step),
            psnr_y=f"{found.psnr_y:.4f}",
            ssim_y=f"{found.ssim_y:.5f}",
            **provenance,
        )
