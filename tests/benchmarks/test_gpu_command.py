import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from synthetic import gpu_record

from benchmarks import gpu
from benchmarks.gpu import Step, environment, run_all, run_step, slug, steps, summarize

ROOT = Path(gpu.__file__).resolve().parent.parent
pytestmark = pytest.mark.xdist_group("system")


def test_without_a_gpu_there_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        gpu.main([])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("make gpu needs an NVIDIA GPU, but torch finds none here\n")


def test_the_script_runs_as_the_makefile_calls_it():
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs an NVIDIA GPU" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "expected"), [("NVIDIA H200", "nvidia-h200"), ("NVIDIA A100-SXM4 (80GB)", "nvidia-a100-sxm4-80gb")]
)
def test_slug(name, expected):
    assert slug(name) == expected


class Host:
    """Runs steps in no time, and moves its clock by what they would take."""

    def __init__(self, takes, codes=None):
        self.now, self.takes, self.codes, self.ran = 0.0, takes, codes or {}, {}

    def run(self, step, seconds):
        self.ran[step.title] = seconds
        self.now += min(self.takes.get(step.title, 0.0), seconds)
        return self.codes.get(step.title, 0)


TITLES = (
    "the build",
    "the GPU's own tests",
    "the tests",
    "benchmarks/model.py",
    "benchmarks/rda_conv.py",
    "benchmarks/rda_block.py",
    "benchmarks/gpu_model.py",
    "compute-sanitizer",
)


def all_steps(host):
    seen = []
    failed = run_all(steps(Path("results"), "x1"), lambda: seen.append(host.now), host.run, now=lambda: host.now)
    return failed, seen


def test_all_steps_together_stay_inside_nine_minutes_and_each_gets_some_time():
    for takes in ({}, dict.fromkeys(TITLES, 1000.0)):
        host = Host(takes)
        failed, seen = all_steps(host)
        assert failed == []
        assert tuple(host.ran) == TITLES
        assert host.now <= 9 * 60 - 15  # tables, and Python's start
        assert min(host.ran.values()) >= 45
        assert len(seen) == len(TITLES)
    assert Host({}).now == 0


def test_a_quick_build_leaves_the_operators_benchmark_its_full_time():
    host = Host({"the build": 60.0, "the GPU's own tests": 50.0, "the tests": 80.0, "benchmarks/model.py": 50.0})
    all_steps(host)
    assert host.ran["benchmarks/rda_conv.py"] == 135
    assert host.ran["benchmarks/rda_block.py"] >= 45


def test_nothing_is_measured_after_a_build_that_failed():
    host = Host({}, {"the build": 1})
    assert all_steps(host)[0] == ["the build (exit code 1)"]
    assert tuple(host.ran) == TITLES[:1]


def test_what_a_step_has_started_ends_with_it(tmp_path):
    # a child of its own that would go on for a minute, and disturb the next step
    mark = tmp_path / "child"
    code = (
        "import subprocess, sys, time;"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(mark)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    assert gpu.run_step(gpu.Step("a step", ("-c", code), 1, 0), 3.0) == gpu.TOOK_TOO_LONG
    child = Path(f"/proc/{mark.read_text()}/status")
    for _ in range(50):
        if not child.exists() or "State:\tZ" in child.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")


def test_measuring_goes_on_after_tests_that_failed_or_took_too_long():
    for code, words in ((1, "exit code 1"), (gpu.TOOK_TOO_LONG, "took too long")):
        host = Host({}, {"the tests": code})
        failed, _ = all_steps(host)
        assert failed == [f"the tests ({words})"]
        assert tuple(host.ran) == TITLES


def test_a_step_is_killed_after_its_time_and_a_benchmark_is_told_its_limit(capfd):
    slow = Step("slow", ("-c", "import time; time.sleep(60)"), seconds=0, reserve=0)
    assert run_step(slow, 0.2) == gpu.TOOK_TOO_LONG
    shown = "import os, sys; sys.exit('--time-limit 75 ' + os.environ['MRDA_KERNELS_CUDA'] + str(sys.argv[1:]))"
    benchmark = Step("benchmark", ("-c", shown), seconds=0, reserve=0, takes_time_limit=True)
    assert run_step(benchmark, 75 + gpu.BENCHMARK_OVERRUN) == 1
    assert "--time-limit 75 1['--time-limit', '75']" in capfd.readouterr().err


def test_the_build_must_be_for_the_gpu_and_dispatch_is_not_overruled():
    inner = environment({"PATH": "here", "MRDA_KERNELS_BACKEND": "triton", "MRDA_KERNELS_CUDA": "0"})
    assert inner == {"PATH": "here", "MRDA_KERNELS_CUDA": "1"}


def test_the_tables_of_the_results_so_far_are_written(tmp_path):
    summarize(tmp_path, "x1")
    assert list(tmp_path.iterdir()) == []
    records = [gpu_record("released", 2.0), gpu_record("mrda_kernels", 1.0), gpu_record("copy", 1.0)]
    (tmp_path / "x1.json").write_text(json.dumps(records))
    summarize(tmp_path, "x1")
    text = (tmp_path / "x1.md").read_text()
    assert text.startswith("The operator on NVIDIA X1:")
    assert "2.0x" in text
    (tmp_path / "x1_rda_block.json").write_text(json.dumps([gpu_record("mrda_kernels", 1.0, op="trunk")]))
    summarize(tmp_path, "x1")
    assert "RDA blocks on NVIDIA X1:" in (tmp_path / "x1.md").read_text()


def test_the_tests_that_the_steps_name_are_there():
    for step in steps(Path("results"), "x1"):
        for word in step.command:
            path = word.removeprefix("--ignore=")
            assert (not path.endswith(".py") and not path.startswith("tests/")) or (ROOT / path).exists(), word
