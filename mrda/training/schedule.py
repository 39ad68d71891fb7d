"""Learning rates as functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from mrda.config import StageConfig, StudentConfig


def learning_rate(stage: StageConfig, step: int) -> float:
    """Adam's learning rate in step ``step`` = 0, 1, ... of a stage.

    The student's encoder-only phase has a law of its own (to a tenth every `encoder_decay_every` steps); its
    joint phase follows `lr_law`, as every other stage does, counted from the phase's first step. In the
    first `warmup_steps` of a stage all that is multiplied by a share that rises evenly to one.
    """
    return min(1.0, (step + 1) / (stage.warmup_steps + 1)) * _after_warmup(stage, step)


def _after_warmup(stage: StageConfig, step: int) -> float:
    first = stage.encoder_steps if isinstance(stage, StudentConfig) else 0
    if isinstance(stage, StudentConfig) and step < first:
        return stage.encoder_lr * 0.1 ** _falls(step, stage.encoder_decay_first, stage.encoder_decay_every)
    if stage.lr_law == "halving":
        return stage.lr * 0.5 ** _falls(step - first, stage.halve_first, stage.halve_every)
    if stage.lr_law == "cosine":
        progress = (step - first) / (stage.steps - first)
        return stage.lr_min + 0.5 * (stage.lr - stage.lr_min) * (1 + math.cos(math.pi * progress))
    return stage.lr


def _falls(step: int, first: int | None, every: int) -> int:
    """How often a rate has fallen by ``step``: for the first time at ``first``, then every so many steps."""
    return max(0, (step - (first or every)) // every + 1)
