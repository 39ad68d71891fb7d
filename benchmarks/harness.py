# SPDX-License-Identifier: Apache-2.0
"""The harness: all providers of a setting timed in interleaved rounds of one process, their memory, and the records.

On a GPU the L2 cache is cleared before each call, as `triton.testing.do_bench` does (whose eight calls or more for one
time are too many for a turn). A launch that takes no longer is hidden. Short work is also timed in a CUDA graph.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch._dynamo
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import timer

from benchmarks.records import Record, Setting
from mrda.core.environment import timing_environment

Run = Callable[[], object]
Operator = Callable[..., Tensor]  # computes an op from its tensors

REST_SECONDS = 0.01
SHORT_MS = 100.0
SHORT_BYTES = 256 << 20  # a GPU moves as many in about the time of a launch


@dataclass(frozen=True)
class Effort:
    """The time to spend on one setting: see `interleaved`; compiled peers are left out if `compiles` is False."""

    seconds: float = 3.0
    min_rounds: int = 5
    max_seconds: float = math.inf
    compiles: bool = True


class Arguments(NamedTuple):
    """An operator's tensors, and a gradient of its result."""

    tensors: tuple[Tensor, ...]
    grad_output: Tensor


@dataclass(frozen=True)
class Candidate:
    """One way to do the work of a setting, more keys for its records, and the run to measure the memory of instead."""

    run: Run
    is_compiled: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    memory_run: Run | None = None


def host_clock(run: Run) -> float:
    """Milliseconds of a call on the CPU."""
    start = timer()
    result = run()
    elapsed = timer() - start
    del result  # freeing the memory is not part of the work
    return 1000 * elapsed


class GpuClock:
    """Milliseconds of a call between two events of the GPU's stream, with a cold L2 cache."""

    def __init__(self) -> None:
        size = 2 * torch.cuda.get_device_properties().L2_cache_size
        self._cache = torch.empty(max(size, SHORT_BYTES), dtype=torch.int8, device="cuda")

    def __call__(self, run: Run) -> float:
        """Time one call."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._cache.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def interleaved(
    runs: Mapping[str, Run],
    clock: Callable[[Run], float],
    *,
    seconds: float,
    min_rounds: int,
    max_seconds: float = math.inf,
    rest: float = REST_SECONDS,
) -> dict[str, tuple[float, int]]:
    """Time every run once a round, until the rounds have taken `seconds`; return median milliseconds and rounds.

    A disturbance of the machine then hits all alike. Each round has an order of its own, so that none always inherits
    the caches of the same neighbour. One round is run first and not counted.

    Code from torch.compile has OpenMP threads of its own, which spin for some milliseconds after their work and would
    delay the next run; hence the seconds of rest before each turn. A short run is then repeated: its first time, with
    the neighbour's caches and its own threads asleep, is not counted. There are at least `min_rounds` rounds, but after
    `max_seconds` one is enough.
    """
    order, shuffle = list(runs), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in order}
    for run in runs.values():
        clock(run)
    start = time.perf_counter()
    rounds, passed = 0, 0.0
    while rounds == 0 or passed < seconds or (rounds < min_rounds and passed < max_seconds):
        shuffle(order)
        for name in order:
            time.sleep(rest)
            ms = clock(runs[name])
            times[name].append(clock(runs[name]) if ms < SHORT_MS else ms)
        rounds += 1
        passed = time.perf_counter() - start
    return {name: (median(values), len(values)) for name, values in times.items()}


def call(operator: Operator, arguments: Arguments, mode: str) -> Run:
    """A call of an operator, with its backward if `mode` says so."""
    if mode == "forward":
        return lambda: operator(*arguments.tensors)
    return lambda: torch.autograd.grad(operator(*arguments.tensors), arguments.tensors, arguments.grad_output)


def fresh_start() -> None:
    """Forget what was compiled and held for an earlier setting."""
    torch._dynamo.reset()  # otherwise its peers count against the limit on recompilations
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def measure(
    setting: Setting, candidates: Mapping[str, Candidate], *, floor: str, effort: Effort, memory: bool = True
) -> list[Record]:
    """Time all candidates, by provider's name, on one setting; return a record of each, and one of each CUDA graph.

    Times are compared with those of the candidate `floor`. With `memory`, peak memory is measured too.
    """
    on_gpu = setting.device == "cuda"
    limits = {"min_rounds": effort.min_rounds, "max_seconds": effort.max_seconds}
    timed = partial(
        interleaved, clock=GpuClock() if on_gpu else host_clock, rest=0.0 if on_gpu else REST_SECONDS, **limits
    )
    with torch.set_grad_enabled(setting.mode != "forward"):
        ready, absent = _attempts({name: partial(_first_call, each, effort) for name, each in candidates.items()})
        found = {"eager": (timed(ready, seconds=effort.seconds), absent)}
        if on_gpu and setting.bytes_moved <= SHORT_BYTES:
            replays, absent = _attempts({name: partial(graphed, run) for name, run in ready.items()})
            found["graph"] = (timed(replays, seconds=effort.seconds / 2), absent)
        held = {n: peak_bytes(candidates[n].memory_run or run, setting.device) for n, run in ready.items() if memory}

    records: list[Record] = []
    for launch, (timings, absent) in found.items():
        for name in [name for name in candidates if name in timings or name in absent]:
            record = setting.identity | {"provider": name, "launch": launch, **candidates[name].facts}
            if name in timings:
                ms, rounds = timings[name]
                record |= {"ms": ms, "gbps": setting.bytes_moved / ms / 1e6, "rounds": rounds}
                record |= {"floor_ratio": ms / timings[floor][0]} if floor in timings else {}
                record |= {"peak_bytes": held[name]} if memory and launch == "eager" else {}
            records.append(record | absent.get(name, {}) | timing_environment(setting.device))
    return records


def _first_call(candidate: Candidate, effort: Effort) -> Run:
    """Make a candidate's first call, which compiles it."""
    if candidate.is_compiled and not effort.compiles:
        raise TimeoutError("the time limit of the run left no time for compiling")
    for run in filter(None, (candidate.run, candidate.memory_run)):
        run()
    timer()  # waits for the GPU, and raises its errors
    return candidate.run


def graphed(run: Run) -> Run:
    """The replay of a CUDA graph that makes the call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # set-up on first use must not be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> object:
        graph.replay()
        return result  # alive as long as the graph

    return replay


def _attempts(attempts: Mapping[str, Callable[[], Run]]) -> tuple[dict[str, Run], dict[str, Record]]:
    """The results of the attempts that succeed, and the reasons of the others under "absent"."""
    ready: dict[str, Run] = {}
    absent: dict[str, Record] = {}
    for name, attempt in attempts.items():
        try:
            ready[name] = attempt()
        except Exception as error:  # of any library; the record shows it, and the others are measured
            lines = str(error).strip().splitlines()
            absent[name] = {"absent": ": ".join([type(error).__name__, *lines[:1]])}
            timer()  # an error that broke the GPU's context ends the run here
    return ready, absent


def shares(run: Run, parts: Sequence[tuple[Any, str, str]], turns: int = 3) -> dict[str, float]:
    """Shares of a run's time by part, each part waited for, over some turns after a first one.

    A part is an object or class, the name of its method, and the name that the method's time counts for.
    """
    spent: dict[str, float] = {}

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = timer()
            result = function(*args, **kwargs)
            spent[part] = spent.get(part, 0.0) + timer() - start
            return result

        return wrapper

    with ExitStack() as stack:
        for owner, name, part in parts:
            stack.enter_context(patch.object(owner, name, timed(getattr(owner, name), part)))
        run()
        spent.clear()
        start = timer()
        for _ in range(turns):
            run()
        total = timer() - start
    spent["the rest"] = total - sum(spent.values())
    return {part: seconds / total for part, seconds in spent.items()}


def saved_bytes(operator: Operator, tensors: tuple[Tensor, ...]) -> int:
    """The bytes that a call keeps alive for its backward, its inputs among them."""
    saved: list[Tensor] = []  # alive, so that no data_ptr() is reused
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        operator(*tensors)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in saved}
    return sum(storage.nbytes() for storage in storages.values())


def peak_bytes(run: Run, device: str) -> int:
    """The most bytes that a call holds at a time, on top of what exists before it; its results count.

    On a GPU torch's caching allocator reports it; on a CPU it is the highest point of the sum of allocations that
    torch's profiler lists. Neither counts memory that a library gets from the system by itself.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = run()
    del result
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate((event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())), initial=0))
