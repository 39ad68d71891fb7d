"""A run that is killed again and again ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mrda.core.files import temporary_key

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS = 4
pytestmark = pytest.mark.xdist_group("system")


def start(photo: Path, run_dir: Path, seed: int) -> "subprocess.Popen[str]":
    """A run of all stages, of some seconds, in a process of its own."""
    command = [sys.executable, "-m", "mrda", "train", "--config", "toy", "--run-dir", str(run_dir)]
    options = {
        "data.sources": f"['{photo}']",
        "validation.sources": f"['{photo}']",
        "validation.every": 4,
        "train.steps": 20,  # in four stages: more than twice as long as all kills can take
        "train.checkpoint_every": 2,
        "train.ema_decay": 0.9,
        "adaptation.reset_mln": "false",
        "seed": seed,
    }
    for key, value in options.items():
        command += ["--set", f"{key}={value}"]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    # One number of threads, for a sum's order may depend on it.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def written(run_dir: Path) -> int:
    """A number that grows as the run goes on."""
    return sum(path.stat().st_size for path in run_dir.glob("*/log.jsonl"))


def results(run_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(run_dir)): load_file(path) for path in sorted(run_dir.glob("*/*.safetensors"))}


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_bit_equal(photo: Path, tmp_path: Path) -> None:
    whole = start(photo, tmp_path / "whole", seed=3)
    assert whole.wait(timeout=600) == 0, whole.communicate()[1]

    moments = random.Random(5)
    killed = tmp_path / "killed"
    for _ in range(KILLS):
        before = written(killed)
        process = start(photo, killed, seed=3)
        while process.poll() is None and written(killed) == before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL, process.communicate()[1]
    # As a kill leaves it in the midst of a write, whichever moments these were.
    name = f".mrda-{temporary_key('best.safetensors')}-0123abcd.safetensors"
    (killed / "bicubic" / name).write_text("half")
    last = start(photo, killed, seed=3)
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said

    expected, got = results(tmp_path / "whole"), results(killed)
    assert len(expected) == 8  # the last and the best of four stages
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert not list(killed.rglob(".*"))  # no unfinished file or folder is left


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_130(photo: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(photo, tmp_path, seed=3)
    while process.poll() is None and written(tmp_path) == 0:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    (stage,) = (path.name for path in tmp_path.iterdir() if path.is_dir())
    checkpoints = sorted(path.name for path in (tmp_path / stage / "checkpoints").iterdir())
    assert checkpoints
    assert f"saved {tmp_path / stage / 'checkpoints' / checkpoints[-1]}" in said
