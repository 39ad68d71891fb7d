"""Measure all providers on one setting, and make records of it.

On a GPU each call takes the next of several sets of inputs, and puts its result where the call before did not: all
sets together exceed twice the L2 cache, so that neither inputs nor results are found there. (On a CPU a call has the
same inputs each time.) Work so short that launching it takes longer is timed twice: as plain calls, and as the
replay of a CUDA graph that holds one call for each set.
"""

import gc
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from benchmarks.providers import Operator, Provider
from benchmarks.records import OURS, Record, Setting, environment
from benchmarks.timing import REST_SECONDS, Clock, Run, Timing, clock_for, interleaved

SHORT_BYTES = 256 << 20  # that a GPU moves in about the time that launching takes
MIN_COMPILE_SECONDS = 3.0  # in less nothing is compiled


@dataclass(frozen=True)
class Effort:
    """How long to measure one setting.

    Attributes:
        seconds: as for `benchmarks.timing.interleaved`, as the next two are.
        min_rounds: the fewest rounds to count.
        max_seconds: when one round is enough.
        compile_seconds: after how long a compiled peer is given up.
    """

    seconds: float = 3.0
    min_rounds: int = 5
    max_seconds: float = math.inf
    compile_seconds: float = math.inf


EFFORT = {"cpu": Effort(), "cuda": Effort(seconds=0.4, max_seconds=4.0, compile_seconds=40.0)}


@dataclass(frozen=True)
class Arguments:
    """An operator's tensors, those that have gradients in the mode at hand, and a gradient of its result."""

    tensors: tuple[Tensor, ...]
    grad_output: Tensor


@dataclass(frozen=True)
class Candidate:
    """One way to do the work of a setting: a call for each set of inputs."""

    runs: Sequence[Run]
    is_compiled: bool = False
    tf32: bool = False
    facts: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, provider: Provider, sets: Sequence[Arguments], mode: str) -> "Candidate":
        """A provider's calls."""
        runs = [call(provider.operator, arguments, mode) for arguments in sets]
        return cls(runs, provider.is_compiled, provider.tf32, provider.facts)

    @property
    def calls(self) -> list[Run]:
        """Its calls, each with the precision it asks for."""
        return [with_tf32(run) if self.tf32 else run for run in self.runs]

    def on(self, device: str, kept: list[object]) -> Run:
        """Its calls in turn, with their results kept in `kept` till the next turn; on a CPU just the first."""
        return self.calls[0] if device == "cpu" else Rotation(self.calls, kept)


class Rotation:
    """Makes several calls in turn, one each time; a result stays in `kept` until its turn comes again."""

    def __init__(self, runs: Sequence[Run], kept: list[object]) -> None:
        self._runs = runs
        self._kept = kept
        self._next = 0

    def __call__(self) -> None:
        """Make the next call."""
        index = self._next
        self._next = (index + 1) % len(self._runs)
        self._kept[index] = self._runs[index]()


def fresh_start() -> None:
    """Forget what was compiled and held for an earlier setting."""
    torch._dynamo.reset()  # else its peers count against the limit on recompilations
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def set_count(setting: Setting, l2_bytes: int | None = None) -> int:
    """How many sets of inputs exceed twice the GPU's L2 cache (by default, of the current one); 1 on a CPU."""
    if setting.device == "cpu":
        return 1
    if l2_bytes is None:
        l2_bytes = torch.cuda.get_device_properties().L2_cache_size
    # x is read, and with the backward grad_y
    inputs = setting.tensor_bytes * (1 if setting.mode == "forward" else 2)
    return 2 * l2_bytes // inputs + 1


def call(operator: Operator, arguments: Arguments, mode: str) -> Run:
    """One call of an operator, with its backward where `mode` says so."""
    if mode == "forward":
        return lambda: operator(*arguments.tensors)
    return lambda: torch.autograd.grad(operator(*arguments.tensors), arguments.tensors, arguments.grad_output)


def measure(setting: Setting, candidates: Mapping[str, Candidate], *, floor: str, effort: Effort) -> list[Record]:
    """Time all candidates on one setting.

    Args:
        setting: what they work on.
        candidates: by provider's name.
        floor: the one that the others are compared with.
        effort: how long to measure.

    Returns:
        A record per candidate; after those, one more for each that was replayed as a CUDA graph, too.
    """
    rest = REST_SECONDS if setting.device == "cpu" else 0.0
    clock = clock_for(setting.device)
    kept: list[object] = [None] * max(len(candidate.runs) for candidate in candidates.values())
    runs = {name: candidate.on(setting.device, kept) for name, candidate in candidates.items()}

    def timed(runs: Mapping[str, Run], clock: Clock, seconds: float) -> dict[str, Timing]:
        limits = {"min_rounds": effort.min_rounds, "max_seconds": effort.max_seconds}
        return interleaved(runs, clock, seconds=seconds, rest=rest, **limits)

    with mode_context(setting.mode), tf32(False):
        ready, facts = _first_calls(setting.device, candidates, runs, effort)
        found = {"eager": (timed(ready, clock, effort.seconds), facts)}
        if setting.device == "cuda" and setting.bytes_moved <= SHORT_BYTES:
            replays, reasons = _attempts({name: partial(graphed, candidates[name].calls) for name in ready})
            per_replay = timed(replays, clock, effort.seconds / 2)
            per_call = {
                name: Timing(timing.ms / len(candidates[name].runs), timing.rounds)
                for name, timing in per_replay.items()
            }
            found["graph"] = (per_call, {name: {"absent": reason} for name, reason in reasons.items()})

    machine = environment(setting.device)
    records: list[Record] = []
    for launch, (timings, more) in found.items():
        for name, candidate in candidates.items():
            if name not in timings and name not in more:
                continue  # absent already as a plain call
            record = setting.identity | {"provider": name, "launch": launch, **(candidate.facts or {})}
            if name in timings:
                ms, rounds = timings[name]
                record |= {"ms": ms, "gbps": setting.bytes_moved / ms / 1e6, "rounds": rounds}
                record |= {"floor_ratio": ms / timings[floor].ms} if floor in timings else {}
            record |= more.get(name, {}) | machine
            if setting.device == "cuda":
                record["input_sets"] = len(candidate.runs)
            records.append(record)
    return records


def mode_context(mode: str) -> AbstractContextManager[Any]:
    """Where a forward call records nothing for a backward."""
    return torch.no_grad() if mode == "forward" else nullcontext()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let float32 convolutions and products on a GPU round their factors to TF32, or not."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = allowed
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


def with_tf32(run: Run) -> Run:
    """The call, with TF32 allowed."""

    def allowed() -> object:
        with tf32(True):
            return run()

    return allowed


def graphed(runs: Sequence[Run]) -> Run:
    """The replay of a CUDA graph that makes each call once, each with a result of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for run in runs:  # whatever is set up on first use must not be captured
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [run() for run in runs]

    def replay() -> object:
        graph.replay()
        return results  # alive as long as the graph: none may lie where another one does

    return replay


class OutOfTime(BaseException):
    """A time limit has passed. Not an Exception, lest what runs under the limit takes it for a failure of its own."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block once it has run so long; no limit where the system has no timers (Windows)."""
    if math.isinf(seconds) or not hasattr(signal, "setitimer"):
        yield
        return

    def out_of_time(signal_number: int, frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # once more each second, in case something drops the error
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _first_calls(
    device: str, candidates: Mapping[str, Candidate], runs: Mapping[str, Run], effort: Effort
) -> tuple[dict[str, Run], dict[str, Record]]:
    """Compile what is to be compiled; return the calls that work, and facts about the others and about compiling."""
    facts: dict[str, Record] = {}
    attempts: dict[str, Callable[[], Run]] = {}
    for name, candidate in candidates.items():
        if candidate.is_compiled and effort.compile_seconds < MIN_COMPILE_SECONDS:
            facts[name] = {"absent": "not compiled: the time limit of the run left no time for it"}
            continue

        def attempt(name: str = name, candidate: Candidate = candidate) -> Run:
            start = time.perf_counter()
            with time_limit(effort.compile_seconds if candidate.is_compiled else math.inf):
                runs[name]()
                if device == "cuda":
                    torch.cuda.synchronize()
            if candidate.is_compiled:
                facts[name] = {"compile_seconds": round(time.perf_counter() - start, 1)}
            return runs[name]

        attempts[name] = attempt
    ready, reasons = _attempts(attempts)
    return ready, facts | {name: {"absent": reason} for name, reason in reasons.items()}


def _attempts(attempts: Mapping[str, Callable[[], Run]]) -> tuple[dict[str, Run], dict[str, str]]:
    """The results of those that succeed, and of the others why they don't."""
    ready: dict[str, Run] = {}
    reasons: dict[str, str] = {}
    for name, attempt in attempts.items():
        try:
            ready[name] = attempt()
        except OutOfTime:
            reasons[name] = "compiling it took longer than the time limit"
        except Exception as error:  # of any library's own kind; it is shown, and the others are measured
            lines = str(error).strip().splitlines()
            reasons[name] = ": ".join([type(error).__name__, *lines[:1]])
        if torch.cuda.is_available() and name in reasons:
            torch.cuda.synchronize()  # an error that broke the GPU's context ends the run here
    return ready, reasons


def failures(records: Sequence[Record]) -> list[str]:
    """A sentence for each way of ours that could not be measured."""
    return [
        f"{r['provider']} failed on {r['op']} {tuple(r['shape'])} {r['dtype']} {r['layout']} {r['mode']} "
        f"({r['launch']}): {r['absent']}"
        for r in records
        if "absent" in r and r["provider"].startswith(OURS)
    ]
