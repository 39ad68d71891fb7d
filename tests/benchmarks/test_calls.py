"""The benchmark of what a call costs."""

import json
import time

import pytest
import torch

from benchmarks import calls, tables
from benchmarks.rda_conv import random_arguments
from benchmarks.records import Setting
from mrda_kernels import dynamic_depthwise_conv2d
from mrda_kernels.backends import cpu

needs_native_backend = pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")


@needs_native_backend
def test_records_and_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(calls, "CALLS", 2)
    monkeypatch.setattr(calls, "SECONDS", 0.0)
    file, threads = tmp_path / "calls.json", torch.get_num_threads()
    calls.main(["--json", str(file)])
    records = json.loads(file.read_text())
    providers, modes = ("grouped_conv2d", "released", "mrda_kernels"), ("forward", "forward_backward")
    assert [(r["mode"], r["provider"]) for r in records] == [(mode, name) for mode in modes for name in providers]
    assert all(r["us"] > 0 and r["threads"] == 1 for r in records)
    assert torch.get_num_threads() == threads
    assert capsys.readouterr().out == tables.calls(records)


@needs_native_backend
def test_all_compute_the_same_convolution():
    found = {name: run() for name, run in calls.providers("forward").items()}
    torch.testing.assert_close(found["mrda_kernels"], found["released"])
    input, weight, *_ = random_arguments(Setting("cpu", torch.float32, "nchw", calls.SHAPE, "forward")).tensors
    torch.testing.assert_close(found["grouped_conv2d"], dynamic_depthwise_conv2d(input, weight))
    gradients = {name: run() for name, run in calls.providers("forward_backward").items()}
    for ours, released in zip(gradients["mrda_kernels"], gradients["released"], strict=True):
        torch.testing.assert_close(ours, released)
    assert [g.shape for g in gradients["grouped_conv2d"]] == [(1, 64, 2, 2), (64, 1, 3, 3)]


def test_the_ratios_are_those_of_one_mode():
    machine = {"shape": [1, 64, 2, 2], "torch": "2", "threads": 1, "processor": "a processor", "instructions": "v9"}
    times = {("grouped_conv2d", "forward"): 40, ("mrda_kernels", "forward"): 10}
    times |= {("grouped_conv2d", "forward_backward"): 200, ("mrda_kernels", "forward_backward"): 100}
    lines = tables.calls([{"provider": p, "mode": m, "us": us} | machine for (p, m), us in times.items()]).splitlines()
    assert lines[3] == "| mrda_kernels | 10 | 0.25x | 100 | 0.50x |"
    assert "Measured on a processor (instructions v9) with 1 thread, torch 2:" in lines[-1]


def test_the_clock_counts_the_calls_and_not_the_waiting(monkeypatch):
    monkeypatch.setattr(calls, "CALLS", 4)
    ticks, made = iter([1.0, 1.5]), []
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks))
    assert calls.processor_clock(lambda: made.append(1)) == 125  # milliseconds of half a second
    assert len(made) == 4


def test_without_the_backend_there_is_nothing_to_measure(monkeypatch, capsys):
    monkeypatch.setattr(cpu, "why_not", lambda device: "it is broken")
    with pytest.raises(SystemExit):
        calls.main([])
    assert "there is nothing to measure: it is broken" in capsys.readouterr().err
