# SPDX-License-Identifier: Apache-2.0
"""The trainer of one stage: its state, the training step, and the loop around it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mrda.config import TrainConfig
from mrda.core.randomness import generator
from mrda.data.pairs import PairSampler
from mrda.data.patches import PatchSampler
from mrda.data.prefetch import Prefetcher
from mrda.degradations import Degraded
from mrda.networks import Network, save_network
from mrda.training.checkpoints import Checkpoints
from mrda.training.cuda_graph import Backward, GraphedBackward
from mrda.training.log import RunProgress, ScalarLog
from mrda.training.losses import Terms
from mrda.training.muon import Muon
from mrda.training.plan import discriminator_share, learning_rate
from mrda.training.processes import Processes
from mrda.training.stages import Stage
from mrda.training.validation import Validation

AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}

PatchKey = tuple[int, int, int | None]
"""Step, micro-batch and task of a batch of patches; no task if all tasks share their patches."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """Result of an optimizer step.

    Args:
        scalars: terms of the loss, averaged over tasks, micro-batches and processes, and 2-norms of the gradients.
        fault: the scalar that was not finite, so that the step was skipped; None if it was taken.
        stop: True if any process was told to stop.
    """

    scalars: dict[str, float]
    fault: str | None
    stop: bool


class Trainer:
    """Trains the network of one stage, in this process together with the others of the run.

    Args:
        stage: the stage; its networks move to the device of this process.
        config: the run's configuration.
        processes: the processes that share the micro-batches.
        validation: measures the network from time to time; None measures nothing.
        stop_requested: called once in each step; True ends the training after the step, with a checkpoint.

    Attributes:
        step: number of finished steps, skipped ones included.
        skipped: number of steps that were skipped because a loss or gradient was not finite.
        skipped_in_row: number of steps that were skipped since the last one that was not.
        best: highest PSNR-Y of a validation in dB; None before the first.
    """

    def __init__(
        self,
        stage: Stage,
        config: TrainConfig,
        processes: Processes,
        *,
        validation: Validation | None = None,
        stop_requested: Callable[[], bool] = bool,
    ) -> None:
        self.stage = stage
        self.config = config
        self.options = config.train
        self.section = config.stage(stage.name)
        self.processes = processes
        self.device = processes.device
        self.validation = validation
        self.stop_requested = stop_requested
        self.step = 0
        self.skipped = 0
        self.skipped_in_row = 0
        self.best: float | None = None

        stage.to(self.device, channels_last=self.options.channels_last)
        if self.options.adapt_sync:
            stage.sync = processes.mean
        # On a GPU one fused kernel replaces dozens of launches.
        self.optimizer = build_optimizer(stage, config, fused=self.device.type == "cuda" or None)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.mixed_precision == "fp16")
        self.average: AveragedModel | None = None
        if self.options.ema_decay is not None:
            moving_average = get_ema_multi_avg_fn(self.options.ema_decay)
            self.average = AveragedModel(self._averaged, multi_avg_fn=moving_average, use_buffers=True)
        if self.options.compile:
            stage.compile()
        graphed = self.device.type == "cuda" and self.options.cuda_graphs and not self.options.compile
        self.backward: Backward = self.forward_backward
        if graphed and stage.capturable:
            self.backward = GraphedBackward(self.forward_backward, stage, self.device)

    def train(
        self, patches: PatchSampler | PairSampler, folder: Path, metadata: Mapping[str, str], progress: RunProgress
    ) -> Network:
        """Train to the last step, from the newest whole checkpoint if there is one.

        Args:
            patches: source of HR patches, or of patches of pairs.
            folder: the stage's folder, for its log, its checkpoints and its best weights.
            metadata: goes into the file of the best weights.
            progress: shows the progress of the run.

        Returns:
            The network to save: the trained one, or its average with `train.ema_decay`.

        Raises:
            FloatingPointError: losses or gradients were not finite in more than `train.max_nonfinite` steps in a row;
                none of these steps has changed a weight.
            KeyboardInterrupt: a process was told to stop; the step is finished and a checkpoint saved. Signals after
                the last step are left to the caller.
        """
        options, last = self.options, self.section.steps
        checkpoints = Checkpoints(folder / "checkpoints", keep=options.keep_checkpoints)
        self.resume(checkpoints)
        self._remove_stale_best(folder)
        with (
            ScalarLog(folder, self.step, tracker=options.tracker, writes=self.processes.is_main) as log,
            progress.stage(self.stage.name, self.step) as stage_progress,
            self._prefetch(patches) as prefetched,
        ):
            batches = (hr for _, hr in prefetched)
            while self.step < last:
                start, waited = time.perf_counter(), prefetched.waited
                result = self.train_step(batches)
                seconds, waiting = time.perf_counter() - start, prefetched.waited - waited

                if result.fault is None:
                    images = self.section.batch * self.processes.micro_batches
                    log.add(result.scalars | {"images_per_second": images / seconds, "data_wait": waiting / seconds})
                else:
                    log.skipped(self.step, result.fault)
                    self._check_skipped(result.fault)
                if self.step % options.log_every == 0 or self.step == last:
                    rate = self.optimizer.param_groups[0]["lr"]
                    record = log.record(self.step, lr=rate, skipped_steps=float(self.skipped))
                    stage_progress.record(self.step, record)
                if self.step % self.config.validation.every == 0 or self.step == last:
                    self.validate(folder, metadata, log)
                stage_progress.advance(f"loss {result.scalars['loss']:.4f}, waits {waiting / seconds:.0%}")
                if self.processes.is_main and (result.stop or self.step % options.checkpoint_every == 0):
                    saved = checkpoints.save(self)
                    if result.stop:
                        logger.warning("interrupted: saved %s, from which the same command continues", saved)
                if result.stop:
                    self.processes.wait()
                    raise KeyboardInterrupt
        return self.final_network()

    def train_step(self, batches: Iterator[Tensor]) -> StepResult:
        """Take one optimizer step on the mean loss of all micro-batches.

        A loss or gradient that is not finite, in any process, makes all processes skip the step.

        Args:
            batches: HR patches (B, 3, H, W) uint8, or patches of pairs, of this process's micro-batches, in the order
                of `patch_keys`.
        """
        stage, processes = self.stage, self.processes
        self.set_learning_rate(learning_rate(self.section, self.step))
        self.optimizer.zero_grad()
        terms: dict[str, Tensor] = {}
        for micro_batch in processes.local_micro_batches():
            random = self._degradation_generator(micro_batch)
            for task in range(stage.tasks):
                if task == 0 or stage.hr_per_task:
                    hr = next(batches).to(self.device, non_blocking=True).float() / 255
                degraded = stage.degrade(hr, random)
                for name, value in self.backward(self.step, degraded).items():
                    part = value.float() / (processes.micro_batches * stage.tasks)
                    terms[name] = terms[name] + part if name in terms else part

        gradients = {"gradient_norm": processes.sum_gradients(stage.trainable())}
        if stage.discriminator is not None:
            gradients["discriminator_gradient_norm"] = processes.sum_gradients(list(stage.discriminator.parameters()))
        self.scaler.unscale_(self.optimizer)
        norms = {name: get_total_norm(tensors) for name, tensors in gradients.items()}
        scalars, stop = self._read_scalars(terms, norms)
        fault = next((f"{name} is {value}" for name, value in scalars.items() if not math.isfinite(value)), None)
        if fault is None:
            if self.options.gradient_clip is not None:
                clip_grads_with_norm_(stage.trainable(), self.options.gradient_clip, norms["gradient_norm"])
            with self._autocast():  # for Muon's matrix products
                self.scaler.step(self.optimizer)
            if self.average is not None:
                self.average.update_parameters(self._averaged)
            stage.after_step(processes.mean)
            self.skipped_in_row = 0
        else:
            stage.after_skipped_step()
            self.skipped += 1
            self.skipped_in_row += 1
        self.scaler.update()
        self.step += 1
        return StepResult(scalars, fault, stop)

    def forward_backward(self, step: int, batch: Degraded) -> Terms:
        """Compute the loss and add its gradients to those of the parameters; returns the loss's terms, detached."""
        # Autocast and backward by torch: those of Accelerator are fixed for the life of the process, and divide by the
        # accumulation steps of the environment.
        with self._autocast():
            terms = self.stage.loss(step, batch)
        share = self.stage.loss_weight / self.processes.micro_batches
        self.scaler.scale(share * terms["loss"]).backward()
        return {name: value.detach() for name, value in terms.items()}

    def set_learning_rate(self, rate: float) -> None:
        """Set the network's learning rate; the discriminator's stays in proportion."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]

    def validate(self, folder: Path, metadata: Mapping[str, str], log: ScalarLog) -> None:
        """Measure the network, and save its weights if they are the best so far."""
        if self.validation is None:
            return
        network = self.final_network()
        found = self.validation.measure(self.stage, network, self.processes)
        log.validated(self.step, found)
        is_best = self.is_best(found.psnr_y)
        if self.processes.is_main:
            logger.info(
                "%s %d/%d  validation: PSNR-Y %.2f dB, bicubic %.2f dB%s",
                self.stage.name,
                self.step,
                self.section.steps,
                found.psnr_y,
                found.psnr_y_bicubic,
                ", the best so far" if is_best else f", the best was {self.best:.2f} dB" if self.best else "",
            )
        if is_best and self.processes.is_main:
            save_network(
                network,
                folder / "best.safetensors",
                step=str(self.step),
                psnr_y=f"{found.psnr_y:.4f}",
                ssim_y=f"{found.ssim_y:.5f}",
                psnr_y_bicubic=f"{found.psnr_y_bicubic:.4f}",
                **metadata,
            )

    def is_best(self, psnr_y: float) -> bool:
        """Note the result of a validation; True if it is the best so far. NaN never is."""
        if math.isnan(psnr_y) or (self.best is not None and psnr_y <= self.best):
            return False
        self.best = psnr_y
        return True

    def final_network(self) -> Network:
        """The network to validate and to save: the trained one, or its average with `train.ema_decay`."""
        network, *norm = self._averaged if self.average is None else cast(nn.ModuleList, self.average.module)
        return self.stage.finished(cast(Network, network), cast(nn.BatchNorm1d, norm[0]) if norm else None)

    @property
    def _averaged(self) -> nn.ModuleList:
        """All that `train.ema_decay` averages: the network and the statistics of its IDRs."""
        norm = self.stage.idr_norm
        return nn.ModuleList([self.stage.network] if norm is None else [self.stage.network, norm])

    # Checkpoints

    def resume(self, checkpoints: Checkpoints) -> None:
        """Restore the newest whole checkpoint, if there is one."""
        # Only rank 0 picks the checkpoint: ranks could disagree on a flaky file system.
        newest = self.processes.broadcast(checkpoints.newest() if self.processes.is_main else None)
        if newest is not None:
            checkpoints.load(self, newest)

    def state_dict(self) -> dict[str, Any]:
        """Everything a checkpoint holds, except the parameters of the stage's network."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "best": self.best,
            "validation": self._fingerprint,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "carried": self.stage.extra_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; a best result under another validation does not count."""
        self.step = int(state["step"])
        self.best = state["best"] if state.get("validation") == self._fingerprint else None
        self.skipped, self.skipped_in_row = int(state["skipped"]), int(state["skipped_in_row"])
        optimizer = state["optimizer"]
        for group in optimizer["param_groups"]:  # chosen by the device, not by the checkpoint
            group["fused"] = self.optimizer.defaults["fused"]
        self.optimizer.load_state_dict(optimizer)
        for parameter, moments in self.optimizer.state.items():
            for name, moment in moments.items():  # in the parameter's layout, which a fused optimizer relies on
                if moment.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(moment)
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.stage.load_extra_state(state["carried"])

    @property
    def _fingerprint(self) -> str | None:
        return None if self.validation is None else self.validation.fingerprint

    def _remove_stale_best(self, folder: Path) -> None:
        best = folder / "best.safetensors"
        if self.best is None and self.processes.is_main and best.exists():
            best.unlink()
            logger.warning("removed %s: no checkpoint has its score under this validation", best)

    # Patches and random numbers

    def patch_keys(self, steps: Iterable[int]) -> Iterator[PatchKey]:
        """Keys of the batches of HR patches that this process needs in ``steps``, in the order of their use."""
        for step in steps:
            for micro_batch in self.processes.local_micro_batches():
                if self.stage.hr_per_task:
                    yield from ((step, micro_batch, task) for task in range(self.stage.tasks))
                else:
                    yield step, micro_batch, None

    def sample(self, patches: PatchSampler | PairSampler, key: PatchKey) -> Tensor:
        """Draw a batch of HR patches (B, 3, H, W) uint8, or of pairs, which depends on its key and the seed alone."""
        step, micro_batch, task = key
        labels = [self.stage.name, step, micro_batch, "patches", *([] if task is None else [task])]
        random = generator(self.config.seed, *labels)
        if isinstance(patches, PairSampler):
            return patches.sample(self.section.batch, random, together=self.stage.one_pair)
        return patches.sample(self.section.batch, random, self.stage.hr_size(self.config))

    def _prefetch(self, patches: PatchSampler | PairSampler) -> Prefetcher[PatchKey]:
        keys = self.patch_keys(range(self.step, self.section.steps))
        pin = self.device.type == "cuda"
        return Prefetcher(partial(self.sample, patches), keys, depth=self.options.prefetch, pin_memory=pin)

    def _degradation_generator(self, micro_batch: int) -> torch.Generator:
        # Micro-batches that adapt one MLN together must have the same degradation.
        who = "all" if self.options.adapt_sync else micro_batch
        return generator(self.config.seed, self.stage.name, self.step, who, "degradation", device=self.device)

    # Parts of a step

    def _autocast(self) -> AbstractContextManager[None]:
        precision = self.options.mixed_precision
        return torch.autocast(self.device.type, AUTOCAST[precision], enabled=precision != "no")

    def _read_scalars(self, terms: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> tuple[dict[str, float], bool]:
        """Sum the terms over processes and read all scalars in one transfer; the second result is True to stop."""
        # Asked once per step: a signal between two calls would reach some processes only.
        flag = torch.tensor(float(self.stop_requested()), device=self.device)
        *totals, stopping = self.processes.sum([*terms.values(), flag])
        *values, stop = torch.stack([*totals, *(norm.float() for norm in norms.values()), stopping]).tolist()
        return dict(zip([*terms, *norms], values, strict=True)), stop > 0

    def _check_skipped(self, fault: str) -> None:
        if self.skipped_in_row > self.options.max_nonfinite:
            name, limit = self.stage.name, self.options.max_nonfinite
            raise FloatingPointError(
                f"stage '{name}' stopped: {fault} in step {self.step}. Such steps are skipped and change no weight, "
                f"but {self.skipped_in_row} in a row are more than train.max_nonfinite={limit}: try a lower {name}.lr "
                "or set train.gradient_clip, in another run directory or without resuming (--no-resume)"
            )


def build_optimizer(stage: Stage, config: TrainConfig, *, fused: bool | None = None) -> torch.optim.Adam:
    """Adam or Muon for the stage's network, with parameter groups for other rates and for the discriminator.

    Args:
        stage: the stage, with its networks on their device.
        config: the run's configuration.
        fused: as for :class:`torch.optim.Adam`.
    """
    section = config.stage(stage.name)
    groups: list[dict[str, Any]] = [{"params": part, "share": share} for part, share in stage.shares_of_rate()]
    if stage.discriminator is not None:
        share = discriminator_share(config, stage.name)
        groups.append({"params": list(stage.discriminator.parameters()), "share": share})
    optimizer = Muon if section.optimizer == "muon" else torch.optim.Adam
    return optimizer(groups, lr=section.lr, betas=section.betas, fused=fused)
