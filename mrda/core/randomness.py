# SPDX-License-Identifier: Apache-2.0
"""Random numbers without state: every draw of a run is a function of its place in the run.

A generator is seeded from the run's seed and a path of labels, for instance ``seed, "teacher", step,
micro_batch, "degradation"``: they are written as a JSON list and hashed by BLAKE2b, and 63 bits of the
digest are the seed. Therefore a resumed run requires no sampler state, and a micro-batch is the same in every process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a seed in 0..2^63-1 that depends on every label and on their order."""
    digest = hashlib.blake2b(json.dumps([seed, *labels]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *labels: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator for the draws under ``labels``."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *labels))


@contextmanager
def seeded_weights(seed: int, *labels: str | int) -> Iterator[None]:
    """Seed torch's global generator, which initialises new modules, within a block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, *labels))
        yield
