# SPDX-License-Identifier: Apache-2.0
"""Estimates how long a training takes on this machine, before it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from mrda.config import StageName, TrainConfig
from mrda.networks import MRDAStudent
from mrda.training.components import build_student
from mrda.training.plan import cost, network_cost

_ENOUGH = 0.5
"""Seconds of a step from which more images would take proportionally longer."""


def estimated_seconds(config: TrainConfig, stages: Sequence[StageName]) -> float:
    """Estimate the duration of stages on the fastest device, from the time of some steps of the student alone.

    Data, validation and checkpoints are not counted, and other stages by their relative `cost`: expect half or twice
    the time.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_student(config).to(device)
    images, batch = 1, config.student.batch
    while True:
        _step(network, config, images)  # sets up what is set up on first use
        seconds = _step(network, config, images)
        if images == batch or seconds > _ENOUGH:
            break
        images = min(batch, 2 * images)
    total = sum(cost(config, stage, config.stage(stage).steps) for stage in stages)
    return seconds / (images * network_cost(config)) * total


def _step(network: MRDAStudent, config: TrainConfig, images: int) -> float:
    """Return the seconds of a step on some images, but for the optimizer."""
    side, device = config.data.patch_size, next(network.parameters()).device
    lr = torch.rand(images, 3, side, side, device=device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=config.train.mixed_precision == "bf16"):
        loss = network(lr).float().abs().sum()
    loss.backward()  # of gradients of 1, because tiny ones become denormal numbers, which are slow
    loss.item()  # waits for the device
    return time.perf_counter() - start
