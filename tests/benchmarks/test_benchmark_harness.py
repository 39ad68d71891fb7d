import math

import pytest
import torch
from synthetic import setting

from benchmarks import harness
from benchmarks.harness import Candidate, Effort, interleaved, measure, peak_bytes, saved_bytes, shares

BRIEF = Effort(seconds=0.0, min_rounds=1)


def measured(candidates, this=None, effort=BRIEF, **options):
    return measure(this or setting(), candidates, floor="floor", effort=effort, memory=False, **options)


def test_times_are_medians_over_rounds_and_the_warm_up_is_left_out():
    times = {
        "long": iter([9000.0, 500.0, 700.0, 400.0]),
        "short": iter([9000.0, 50.0, 3.0, 50.0, 1.0, 50.0, 2.0]),  # every other call is the first of its turn
    }
    calls = []

    def clock(run):
        name = run()
        calls.append(name)
        return next(times[name])

    timings = interleaved({"long": lambda: "long", "short": lambda: "short"}, clock, seconds=0.0, min_rounds=3, rest=0)
    assert timings == {"long": (500.0, 3), "short": (2.0, 3)}
    rounds = [sorted(calls[i : i + 3]) for i in range(2, len(calls), 3)]
    assert rounds == [["long", "short", "short"]] * 3


def test_one_round_is_enough_after_the_longest_time():
    limits = {"seconds": 0.0, "min_rounds": 5, "rest": 0}
    assert interleaved({"a": lambda: None}, lambda run: 1.0, max_seconds=0.0, **limits) == {"a": (1.0, 1)}
    assert interleaved({"a": lambda: None}, lambda run: 1.0, max_seconds=math.inf, **limits) == {"a": (1.0, 5)}


def test_a_call_that_fails_is_absent_with_its_reason_and_the_others_are_measured():
    def broken():
        raise ValueError("no such thing\nmore of it")

    candidates = {"good": Candidate(lambda: 1), "bad": Candidate(broken), "floor": Candidate(lambda: 2)}
    records = {r["provider"]: r for r in measured(candidates)}
    assert records["bad"]["absent"] == "ValueError: no such thing"
    assert "ms" not in records["bad"]
    assert records["good"]["floor_ratio"] == records["good"]["ms"] / records["floor"]["ms"]
    assert "absent" not in records["good"]


def test_without_time_nothing_is_compiled():
    called = []
    candidates = {
        "compiled": Candidate(lambda: called.append("compiled"), is_compiled=True),
        "floor": Candidate(lambda: called.append("floor")),
    }
    compiled, _ = measured(candidates, effort=Effort(0.0, 1, compiles=False))
    assert "no time for compiling" in compiled["absent"]
    assert "compiled" not in called


def test_forward_calls_record_no_gradients():
    seen = []
    candidates = {"floor": Candidate(lambda: seen.append(torch.is_grad_enabled()))}
    measured(candidates, setting("forward"))
    assert set(seen) == {False}
    seen.clear()
    measured(candidates, setting("forward_backward"))
    assert set(seen) == {True}


def test_memory_is_that_of_the_run_for_it_once_it_is_warm():
    kept = []

    def warm():
        if not kept:
            kept.append(torch.ones(100_000))
        return torch.ones(10_000)

    candidates = {"plain": Candidate(lambda: torch.ones(1000)), "floor": Candidate(lambda: 1, memory_run=warm)}
    plain, floor = measure(setting(), candidates, floor="floor", effort=BRIEF)
    assert plain["peak_bytes"] == pytest.approx(4000, abs=1000)
    assert floor["peak_bytes"] == pytest.approx(40_000, abs=1000)


class FakeGpu:
    """A stream on which a run takes the milliseconds it returns; clearing the cache takes 100."""

    def __init__(self):
        self.now, self.cleared = 0.0, 0

    def zero_(self):
        self.now += 100.0
        self.cleared += 1

    def event(self, **options):
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu):
        self.gpu, self.is_done = gpu, False

    def record(self):
        self.time = self.gpu.now

    def synchronize(self):
        self.is_done = True

    def elapsed_time(self, end):
        assert end.is_done, "asked for the time of what may be still to come"
        return end.time - self.time


def test_the_gpus_clock_leaves_out_the_time_to_clear_the_cache(monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: type("Properties", (), {"L2_cache_size": 2**30}))
    sizes = []
    monkeypatch.setattr(torch, "empty", lambda size, **options: sizes.append(size) or gpu)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    clock = harness.GpuClock()

    def run():
        gpu.now += 3.0

    assert [clock(run), clock(run)] == [3.0, 3.0]
    assert (gpu.cleared, sizes) == (2, [2**31])


@pytest.fixture
def fake_gpu(monkeypatch):
    """Everything on the host, with 6 ms for a plain call and 2 ms for a replay."""
    monkeypatch.setattr(harness, "GpuClock", lambda: None)
    monkeypatch.setattr(harness, "timing_environment", lambda device: {"processor": "NVIDIA X1"})
    monkeypatch.setattr(harness, "graphed", lambda run: lambda: (run(), "replay"))

    def timed(runs, clock, **limits):
        return {name: (2.0 if isinstance(run(), tuple) else 6.0, 1) for name, run in runs.items()}

    monkeypatch.setattr(harness, "interleaved", timed)


@pytest.mark.usefixtures("fake_gpu")
def test_on_a_gpu_short_work_is_timed_in_a_graph_too():
    candidates = {name: Candidate(lambda: 1, facts={"backend": "cuda"}) for name in ("ours", "floor")}
    records = measured(candidates, setting(device="cuda"))
    found = {(r["provider"], r["launch"]): r["ms"] for r in records}
    assert found == {
        ("ours", "eager"): 6.0,
        ("floor", "eager"): 6.0,
        ("ours", "graph"): 2.0,
        ("floor", "graph"): 2.0,
    }
    assert {(r["backend"], r["processor"]) for r in records} == {("cuda", "NVIDIA X1")}
    large = setting(device="cuda", shape=(1, 1, 1, harness.SHORT_BYTES // 8 + 1))
    assert {r["launch"] for r in measured(candidates, large)} == {"eager"}


@pytest.mark.usefixtures("fake_gpu")
def test_a_call_that_cannot_be_captured_is_absent_as_a_graph_only(monkeypatch):
    def graphed(run):
        if run() == "bad":
            raise RuntimeError("it waits for the GPU")
        return run

    monkeypatch.setattr(harness, "graphed", graphed)
    candidates = {name: Candidate(lambda name=name: name) for name in ("bad", "floor")}
    reasons = {(r["provider"], r["launch"]): r.get("absent") for r in measured(candidates, setting(device="cuda"))}
    assert reasons == {
        ("bad", "eager"): None,
        ("floor", "eager"): None,
        ("bad", "graph"): "RuntimeError: it waits for the GPU",
        ("floor", "graph"): None,
    }


def test_shares_are_of_the_whole_and_the_methods_are_put_back():
    module = torch.nn.Linear(2, 2)
    found = shares(lambda: module(torch.ones(1, 2)), [(module, "forward", "a part")])
    assert sum(found.values()) == pytest.approx(1)
    assert set(found) == {"a part", "the rest"}
    assert found["a part"] > 0
    assert "forward" not in vars(module)


def test_saved_bytes_counts_memory_that_is_shared_once():
    x = torch.ones(10, requires_grad=True)
    assert saved_bytes(lambda x: x * x.view(10), (x,)) == 40


def test_peak_bytes_counts_the_memory_held_at_the_same_time():
    x = torch.ones(100_000)
    small = 1000  # the allocator's rounding, a scalar
    assert peak_bytes(lambda: x + 1, "cpu") == pytest.approx(x.nbytes, abs=small)
    assert peak_bytes(lambda: torch.exp(torch.exp(torch.exp(x))), "cpu") == pytest.approx(2 * x.nbytes, abs=small)
    assert peak_bytes(lambda: [torch.exp(x), torch.exp(x), torch.exp(x)], "cpu") == pytest.approx(
        3 * x.nbytes, abs=small
    )
