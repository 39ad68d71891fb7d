# SPDX-License-Identifier: Apache-2.0
"""Probes of what a DEN can read: it is taught a known target, and R2 says how much of it it learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mrda.config import TrainConfig
from mrda.core.randomness import generator, seeded_weights
from mrda.data.patches import load_patches
from mrda.degradations.classic import Degraded
from mrda.networks import MRDAOracle, MRDAStudent, MRDATeacher
from mrda.options.networks import DENOptions
from mrda.training.components import build_degradation, build_student, build_teacher
from mrda.training.stages import Stage, StudentStage, TeacherStage

HELD = 24
"""Batches that R2 is measured on."""


def blur_probe(
    config: TrainConfig, fresh: TrainConfig, *, steps: int, every: int, mln: Path | None = None
) -> list[list[float]]:
    """Teach a DEN, with a linear layer, the blur's standard deviation.

    Args:
        config: the training.
        fresh: the degradation of the patches that R2 is measured on.
        steps: Adam steps.
        every: steps between two measurements.
        mln: weights of the MLN whose adapted features the teacher's DEN reads; None: the student's reads LR.

    Returns:
        Pairs of steps and R2.
    """

    def pairs(settings: TrainConfig, label: str) -> Iterator[tuple[Tensor, Tensor]]:
        stage = None if mln is None else TeacherStage(settings, {"mln": mln})
        for batch in batches(settings, label, stage):
            assert batch.kernel is not None
            offsets = torch.arange(batch.kernel.shape[-1]) - batch.kernel.shape[-1] // 2
            sigma = (batch.kernel * offsets.square()).sum(dim=(1, 2)).sqrt()
            yield batch.lr if stage is None else stage.seen_by_teacher(batch), sigma.expand(len(batch.lr))[:, None]

    build = build_student if mln is None else build_teacher
    held = _held(pairs(fresh, "probe, held"))
    found = _taught(build, config, pairs(config, "probe"), held, steps=steps, every=every)
    return [[step, round(float(r2), 4)] for step, (r2,) in found]


def idr_probe(config: TrainConfig, inputs: Mapping[str, Path], *, steps: int) -> list[float]:
    """Teach a DEN of the published width, with a linear layer, to read from LR the IDR that a teacher gives.

    Args:
        config: the training; its student stage says batch and rate.
        inputs: weights of the teacher, and of the MLN that it reads, as `StudentStage` takes them.
        steps: Adam steps.

    Returns:
        R2 of each dimension of the IDR on fresh patches, the least first.
    """
    stage = StudentStage(config, inputs)

    def pairs(label: str) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches(config, label, stage):
            yield batch.lr, stage.target(batch)

    wide = config.model_copy(update={"networks": replace(config.networks, den_width=DENOptions.width)})
    held = _held(pairs("probe, held"))
    ((_, r2),) = _taught(build_student, wide, pairs("probe"), held, steps=steps, every=steps)
    return [round(float(value), 4) for value in r2.sort().values]


def batches(config: TrainConfig, label: str, stage: Stage | None) -> Iterator[Degraded]:
    """Yield degraded batches of the student's size without end.

    Args:
        config: the training.
        label: names the draws.
        stage: degrades them, with the other images that its MLN is adapted to; None: without.
    """
    patches = load_patches(config.data, config.scale)
    degrade = build_degradation(config) if stage is None else stage.degrade
    number = 0
    while True:
        hr = patches.sample(config.student.batch, generator(config.seed, label, number)).float() / 255
        yield degrade(hr, generator(config.seed, label, number, "degradation"))
        number += 1


def _held(pairs: Iterator[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [next(pairs) for _ in range(HELD)]


def _taught(
    build: Callable[[TrainConfig], MRDATeacher | MRDAStudent | MRDAOracle],
    config: TrainConfig,
    pairs: Iterator[tuple[Tensor, Tensor]],
    held: list[tuple[Tensor, Tensor]],
    *,
    steps: int,
    every: int,
) -> Iterator[tuple[int, Tensor]]:
    """Teach the DEN of a new network, with a linear layer, targets (B, D); yield steps and R2 by dimension."""
    true = torch.cat([target for _, target in held])
    with seeded_weights(config.seed, "probe", "weights"):
        den = build(config).den
        reader = nn.Sequential(den, nn.Linear(4 * config.networks.den_width, true.shape[1]))
    scale = true.std(dim=0).clamp_min(1e-6)  # every dimension counts as much
    optimizer = torch.optim.Adam(reader.parameters(), config.student.encoder_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        seen, target = next(pairs)
        optimizer.zero_grad()
        ((reader(seen) - target) / scale).square().mean().backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % every == 0:
            with torch.no_grad():
                read = torch.cat([reader(seen) for seen, _ in held])
            yield step, 1 - ((read - true) / scale).square().mean(dim=0)
