"""The training loop that all stages share."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from mrda.config import TrainConfig
from mrda.data import PatchSampler
from mrda.randomness import generator
from mrda.training.interrupt import deferred_interrupt
from mrda.training.report import Bars, ScalarLog
from mrda.training.schedule import learning_rate
from mrda.training.stage import Stage
from mrda.training.state import Checkpoints
from mrda.training.work import work


def run_stage(
    stage: Stage,
    config: TrainConfig,
    patches: PatchSampler,
    folder: Path,
    checkpoints: Checkpoints,
    accelerator: Accelerator,
    bars: Bars,
) -> None:
    """Train ``stage.network`` in place, from the newest checkpoint where there is one.

    Args:
        stage: the stage; its networks move to the accelerator's device.
        config: the run's configuration.
        patches: source of HR patches.
        folder: the stage's folder, for its log.
        checkpoints: where checkpoints are looked for and saved.
        accelerator: owns device and backward pass.
        bars: progress bars.

    Raises:
        RunRefusedError: the newest checkpoint is damaged.
        FloatingPointError: a loss or gradient is not finite; it has reached no parameter and no checkpoint.
        KeyboardInterrupt: after SIGINT, once the step is finished and a checkpoint saved.
    """
    section = config.stage(stage.name)
    stage.to(accelerator.device)
    optimizer = torch.optim.Adam(stage.trainable(), lr=section.lr)
    start = checkpoints.restore(stage.network, optimizer)
    advance = bars.stage(stage.name, section.steps, start, partial(work, config, stage.name))

    with ScalarLog(folder, start) as log, deferred_interrupt() as interrupted:
        for step in range(start, section.steps):
            rate = learning_rate(section, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            scalars = train_step(stage, step, config, patches, optimizer, accelerator)
            done = step + 1

            log.add(scalars)
            if done % config.log_every == 0 or done == section.steps:
                log.record(done, lr=rate)
            advance(f"loss {scalars['loss']:.4f}")
            stopping = interrupted()  # once: a signal between two looks would end the run without a checkpoint
            if stopping or done % config.checkpoint_every == 0:
                checkpoints.save(done, stage.network, optimizer)
            if stopping:
                raise KeyboardInterrupt


def train_step(
    stage: Stage,
    step: int,
    config: TrainConfig,
    patches: PatchSampler,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> dict[str, float]:
    """One optimizer step on the mean loss of all micro-batches and tasks.

    Returns:
        The means of the stage's scalars, the gradient's 2-norm, ``images_per_second`` and ``data_wait``:
        the fraction of the time spent on getting the patches.
    """
    section = config.stage(stage.name)
    device = accelerator.device
    # Not Accelerator's own mixed precision, which is fixed for the life of the process.
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16")
    share = 1 / (config.micro_batches * stage.tasks)
    scalars: dict[str, float] = {}
    began, waited = time.perf_counter(), 0.0
    optimizer.zero_grad()
    for micro_batch in range(config.micro_batches):
        waiting = time.perf_counter()
        place = (stage.name, step, micro_batch)
        drawn = patches.sample(section.batch, generator(config.seed, *place, "patches"))
        hr = drawn.to(device).float() / 255
        waited += time.perf_counter() - waiting
        draws = generator(config.seed, *place, "degradation", device=device)
        for _ in range(stage.tasks):
            with autocast:
                terms = stage.loss(step, hr, draws)
            accelerator.backward(share * terms["loss"])
            for name, value in terms.items():
                scalars[name] = scalars.get(name, 0.0) + share * float(value.detach())

    gradients = [parameter.grad for parameter in stage.trainable() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    scalars["gradient_norm"] = float(norm)
    _check_finite(scalars, stage.name, step)
    if config.gradient_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(stage.trainable(), config.gradient_clip, norm)
    optimizer.step()

    seconds = time.perf_counter() - began
    scalars["images_per_second"] = section.batch * config.micro_batches / seconds
    scalars["data_wait"] = waited / seconds
    return scalars


def _check_finite(scalars: Mapping[str, float], stage: str, step: int) -> None:
    for name, value in scalars.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"stage '{stage}' stopped: in step {step} {name} is {value}; "
                "the last checkpoint is from before, a lower learning rate or a gradient_clip may help"
            )
