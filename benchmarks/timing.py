"""Times of several ways to do the same thing, measured so that they can be compared."""

import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import torch

Clock = Callable[[Callable[[], object]], float]
"""Runs a function once and returns the milliseconds it took."""

REST_SECONDS = 0.01
SHORT_MS = 100.0


class Timing(NamedTuple):
    """The median time of one call in milliseconds, and how many calls it is the median of."""

    ms: float
    rounds: int


def clock_for(device: torch.device) -> Clock:
    """A clock that stops when the device has done the work, not when it has accepted it."""
    synchronize = _nothing if device.type == "cpu" else torch.accelerator.synchronize

    def clock(run: Callable[[], object]) -> float:
        synchronize()
        start = time.perf_counter()
        result = run()
        synchronize()
        elapsed = time.perf_counter() - start
        del result  # handing the memory back is not part of the work
        return 1000 * elapsed

    return clock


def interleaved(
    candidates: Mapping[str, Callable[[], object]], clock: Clock, *, seconds: float, min_rounds: int
) -> dict[str, Timing]:
    """Time every candidate once a round, until the rounds have taken `seconds`.

    A disturbance of the machine then hits all candidates alike. Each round has an order of its own, so that
    none always inherits the caches of the same neighbour. One round is run first and not counted.

    Code from torch.compile has OpenMP threads of its own, which spin for some milliseconds after their work
    and would hold up the next candidate's: hence a rest before each turn. A short call is then repeated; its
    first time, with the neighbour's caches and its own threads asleep, is not counted.

    Args:
        candidates: what to time, by name.
        clock: times one call.
        seconds: rounds are started until so much time has passed.
        min_rounds: the fewest rounds to count, however long they take.
    """
    order = list(candidates)
    shuffle = random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in order}
    for name in order:
        clock(candidates[name])
    end = time.perf_counter() + seconds
    while len(times[order[0]]) < min_rounds or time.perf_counter() < end:
        shuffle(order)
        for name in order:
            time.sleep(REST_SECONDS)
            ms = clock(candidates[name])
            times[name].append(clock(candidates[name]) if ms < SHORT_MS else ms)
    return {name: Timing(median(values), len(values)) for name, values in times.items()}


def _nothing() -> None:
    pass
