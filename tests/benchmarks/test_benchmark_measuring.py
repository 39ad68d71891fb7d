import time

import pytest
import torch
from synthetic import setting

from benchmarks import measuring
from benchmarks.measuring import Candidate, Effort, OutOfTime, Rotation, measure, set_count, tf32, time_limit
from benchmarks.memory import peak_bytes, saved_bytes
from benchmarks.timing import host_clock

BRIEF = Effort(seconds=0.0, min_rounds=1)


def test_rotation_makes_each_call_in_turn_and_keeps_its_result_until_it_comes_again():
    made = []
    kept = [None] * 3

    def call(name):
        made.append(name)
        return f"{name}{len(made)}"

    rotation = Rotation([lambda name=name: call(name) for name in "abc"], kept)
    for _ in range(4):
        rotation()
    assert made == ["a", "b", "c", "a"]
    assert kept == ["a4", "b2", "c3"]


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
@pytest.mark.parametrize("l2", [0, 839, 840, 10**6])
def test_the_inputs_of_all_sets_exceed_twice_the_l2_and_no_set_is_too_many(mode, l2):
    on_gpu = setting(mode, device="cuda")
    read = (1 if mode == "forward" else 2) * 2 * 3 * 5 * 7 * 4  # x, and in the backward grad_y
    count = set_count(on_gpu, l2)
    assert count * read > 2 * l2
    assert count == 1 or (count - 1) * read <= 2 * l2
    assert set_count(setting(mode), l2) == 1


def test_the_current_gpus_l2_is_asked_for(monkeypatch):
    class Properties:
        L2_cache_size = 840

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: Properties)
    assert set_count(setting(device="cuda")) == 3


def test_a_call_that_fails_is_absent_with_its_reason_and_the_others_are_measured():
    def broken():
        raise ValueError("no such thing\nmore of it")

    candidates = {"good": Candidate([lambda: 1]), "bad": Candidate([broken]), "floor": Candidate([lambda: 2])}
    records = {r["provider"]: r for r in measure(setting(), candidates, floor="floor", effort=BRIEF)}
    assert records["bad"]["absent"] == "ValueError: no such thing"
    assert "ms" not in records["bad"]
    assert records["good"]["floor_ratio"] == records["good"]["ms"] / records["floor"]["ms"]
    assert "absent" not in records["good"]


def test_a_failure_of_ours_is_told_in_a_sentence_and_a_peers_is_not():
    def broken():
        raise RuntimeError("out of order")

    candidates = {name: Candidate([broken]) for name in ("released", "mrda_kernels_triton")}
    records = measure(setting(), candidates | {"floor": Candidate([lambda: 1])}, floor="floor", effort=BRIEF)
    (sentence,) = measuring.failures(records)
    assert sentence == (
        "mrda_kernels_triton failed on rda_conv2d (2, 3, 5, 7) float32 nchw forward (eager): RuntimeError: out of order"
    )


def test_a_peer_that_compiles_for_too_long_is_given_up(monkeypatch):
    def endless():
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # as a compiler that takes any error for one of a candidate of its own
                continue

    monkeypatch.setattr(measuring, "MIN_COMPILE_SECONDS", 0.0)
    candidates = {"slow": Candidate([endless], is_compiled=True), "floor": Candidate([lambda: 1])}
    effort = Effort(seconds=0.0, min_rounds=1, compile_seconds=0.05)
    slow, _ = measure(setting(), candidates, floor="floor", effort=effort)
    assert slow["absent"] == "compiling it took longer than the time limit"


def test_without_time_nothing_is_compiled():
    called = []
    candidates = {
        "compiled": Candidate([lambda: called.append("compiled")], is_compiled=True),
        "floor": Candidate([lambda: called.append("floor")]),
    }
    compiled, _ = measure(setting(), candidates, floor="floor", effort=Effort(0.0, 1, compile_seconds=1.0))
    assert compiled["absent"].startswith("not compiled")
    assert "compiled" not in called


def test_time_limit_leaves_the_block_alone_that_ends_in_time():
    with time_limit(0.02):
        pass
    time.sleep(0.03)  # no timer is left
    with pytest.raises(OutOfTime), time_limit(0.01):
        time.sleep(1.0)


def test_forward_calls_record_no_gradients():
    seen = []
    candidates = {"floor": Candidate([lambda: seen.append(torch.is_grad_enabled())])}
    measure(setting("forward"), candidates, floor="floor", effort=BRIEF)
    assert set(seen) == {False}
    seen.clear()
    measure(setting("forward_backward"), candidates, floor="floor", effort=BRIEF)
    assert set(seen) == {True}


def test_tf32_is_off_but_for_who_asks_for_it_and_is_put_back():
    def flags():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = flags()
    seen = {"plain": set(), "rounded": set()}
    candidates = {
        "plain": Candidate([lambda: seen["plain"].add(flags())]),
        "rounded": Candidate([lambda: seen["rounded"].add(flags())], tf32=True),
    }
    with tf32(True):
        measure(setting(), candidates, floor="plain", effort=BRIEF)
        assert flags() == (True, True)
    assert seen == {"plain": {(False, False)}, "rounded": {(True, True)}}
    assert flags() == before


@pytest.fixture
def fake_gpu(monkeypatch):
    """Everything on the host, where a graph is a loop."""

    def graphed(runs):
        return lambda: [run() for run in runs]

    monkeypatch.setattr(measuring, "clock_for", lambda device: host_clock)
    monkeypatch.setattr(measuring, "environment", lambda device: {"processor": "NVIDIA X1"})
    monkeypatch.setattr(measuring, "graphed", graphed)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.usefixtures("fake_gpu")
def test_on_a_gpu_short_work_is_timed_in_a_graph_too_per_call(monkeypatch):
    monkeypatch.setattr(
        measuring,
        "interleaved",
        lambda runs, clock, **limits: {name: measuring.Timing(6.0, 1) for name in runs},
    )
    candidates = {name: Candidate([lambda: 1] * 3, facts={"backend": "cuda"}) for name in ("ours", "floor")}
    records = measure(setting(device="cuda"), candidates, floor="floor", effort=BRIEF)
    found = {(r["provider"], r["launch"]): r["ms"] for r in records}
    assert found == {
        ("ours", "eager"): 6.0,
        ("floor", "eager"): 6.0,
        ("ours", "graph"): 2.0,  # one of the three calls of a replay
        ("floor", "graph"): 2.0,
    }
    assert {(r["backend"], r["processor"], r["input_sets"]) for r in records} == {("cuda", "NVIDIA X1", 3)}
    large = setting(device="cuda", shape=(1, 1, 1, measuring.SHORT_BYTES // 8 + 1))
    assert {r["launch"] for r in measure(large, candidates, floor="floor", effort=BRIEF)} == {"eager"}


@pytest.mark.usefixtures("fake_gpu")
def test_what_cannot_be_captured_is_absent_as_a_graph_only(monkeypatch):
    def graphed(runs):
        if runs[0]() == "bad":
            raise RuntimeError("it waits for the GPU")
        return runs[0]

    monkeypatch.setattr(measuring, "graphed", graphed)
    candidates = {name: Candidate([lambda name=name: name]) for name in ("bad", "floor")}
    records = measure(setting(device="cuda"), candidates, floor="floor", effort=BRIEF)
    reasons = {(r["provider"], r["launch"]): r.get("absent") for r in records}
    assert reasons == {
        ("bad", "eager"): None,
        ("floor", "eager"): None,
        ("bad", "graph"): "RuntimeError: it waits for the GPU",
        ("floor", "graph"): None,
    }


def test_saved_bytes_counts_memory_that_is_shared_once():
    x = torch.ones(10, requires_grad=True)
    assert saved_bytes(lambda x: x * x.view(10), (x,)) == 40


def test_peak_bytes_counts_what_is_held_at_the_same_time():
    x = torch.ones(100_000)
    small = 1000  # the allocator's rounding, a scalar
    assert peak_bytes(lambda: x + 1, "cpu") == pytest.approx(x.nbytes, abs=small)
    assert peak_bytes(lambda: torch.exp(torch.exp(torch.exp(x))), "cpu") == pytest.approx(2 * x.nbytes, abs=small)
    assert peak_bytes(lambda: [torch.exp(x), torch.exp(x), torch.exp(x)], "cpu") == pytest.approx(
        3 * x.nbytes, abs=small
    )
