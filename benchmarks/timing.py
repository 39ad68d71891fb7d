"""Times of several ways to do the same thing, measured so that they can be compared."""

import math
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import NamedTuple, Protocol

import torch

Run = Callable[[], object]

Clock = Callable[[Run], float]
"""Runs a function once, or a few times, and returns the milliseconds of one call."""

REST_SECONDS = 0.01
SHORT_MS = 100.0

BATCH_MS = 2.0
MAX_CALLS = 200


class Timing(NamedTuple):
    """The median time of one call in milliseconds, and how many turns it is the median of."""

    ms: float
    rounds: int


class Event(Protocol):
    """What the clock asks of a torch.cuda.Event."""

    def record(self) -> object:
        """Have the device note the time once it has come to this point."""

    def synchronize(self) -> object:
        """Wait until it has."""

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds from here to `end`."""


class EventClock:
    """Milliseconds of a call by the GPU's own clock, between two events of its stream.

    An event costs time as well, and a GPU that has run dry waits for the next launch. So a short call is made
    several times between the events, as often as fill BATCH_MS by the last time it took. Where launching takes longer
    than the work, the time is the launch's: what a plain call in a loop costs.
    """

    def __init__(self, new_event: Callable[[], Event]) -> None:
        self._new_event = new_event
        self._last_ms: dict[Run, float] = {}

    def __call__(self, run: Run) -> float:
        """Time one turn."""
        last = self._last_ms.get(run, math.inf)
        calls = min(MAX_CALLS, max(1, math.ceil(BATCH_MS / max(last, 1e-6))))
        start, end = self._new_event(), self._new_event()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        self._last_ms[run] = start.elapsed_time(end) / calls
        return self._last_ms[run]


def host_clock(run: Run) -> float:
    """Milliseconds of a call that is done when it returns."""
    start = time.perf_counter()
    result = run()
    elapsed = time.perf_counter() - start
    del result  # handing the memory back is not part of the work
    return 1000 * elapsed


def clock_for(device: str) -> Clock:
    """A clock that stops when the device has done the work, not when it has accepted it."""
    return host_clock if device == "cpu" else EventClock(partial(torch.cuda.Event, enable_timing=True))


def interleaved(
    candidates: Mapping[str, Run],
    clock: Clock,
    *,
    seconds: float,
    min_rounds: int,
    max_seconds: float = math.inf,
    rest: float = REST_SECONDS,
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
        min_rounds: the fewest rounds to count, however long they take;
        max_seconds: but after so much time one round is enough.
        rest: seconds before each turn.
    """
    order = list(candidates)
    shuffle = random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in order}
    for name in order:
        clock(candidates[name])
    start = time.perf_counter()
    rounds, passed = 0, 0.0
    while rounds == 0 or passed < seconds or (rounds < min_rounds and passed < max_seconds):
        shuffle(order)
        for name in order:
            time.sleep(rest)
            ms = clock(candidates[name])
            times[name].append(clock(candidates[name]) if ms < SHORT_MS else ms)
        rounds += 1
        passed = time.perf_counter() - start
    return {name: Timing(median(values), len(values)) for name, values in times.items()}
