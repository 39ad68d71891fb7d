"""The second-order degradation as a configuration describes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrda.config import TrainConfig
from mrda.degradations import Degraded, RealDegradation
from mrda.degradations.pool import ShufflePool


class PooledDegradation:
    """A degradation whose batches are mixed with those before: what Real-ESRGAN trains on.

    Args:
        degradation: what degrades.
        pool: what mixes.
    """

    def __init__(self, degradation: RealDegradation, pool: ShufflePool) -> None:
        self.degradation = degradation
        self.pool = pool

    def __call__(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """Degrade a batch, and return as many pairs of the pool."""
        return self.pool(self.degradation(hr, generator), generator)

    def state_dict(self) -> dict[str, Any]:
        """The pool's."""
        return self.pool.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.pool.load_state_dict(state)


def build_real_degradation(config: TrainConfig, patch_size: int | None) -> RealDegradation:
    """The degradation of the section `real`.

    Args:
        config: the configuration.
        patch_size: side in LR pixels of the patches that are cut out of the result; None keeps it whole.
    """
    return RealDegradation(config.scale, config.real, config.degradation, patch_size=patch_size)
