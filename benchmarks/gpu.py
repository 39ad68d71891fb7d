# SPDX-License-Identifier: Apache-2.0
"""Everything that needs an NVIDIA GPU, in nine minutes: build for it, test on it, measure it (`make gpu`).

Downloads nothing. The build needs torch, pybind11, ninja and nvcc, the tests pytest and hypothesis (pytest-xdist runs
them side by side). After each part: RESULTS/GPU.json, GPU_rda_block.json, GPU_model.json, and tables in GPU.md;
at last GPU_gpu_model.json, the measured times beside those that benchmarks/gpu_model.py predicts for an H200.
"""

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.gpu` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks import gpu_model, tables
from benchmarks.records import load
from mrda.core.files import write_text

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 520.0  # for everything
TOOK_TOO_LONG = 124  # the exit code of timeout(1)
BENCHMARK_OVERRUN = 25.0  # a benchmark checks its time limit between settings only


class Step(NamedTuple):
    """Arguments to Python, the most seconds that they may take, and those to leave to later steps."""

    title: str
    command: tuple[str, ...]
    seconds: float
    reserve: float
    takes_time_limit: bool = False  # if it ends by itself in the time that --time-limit gives it


def steps(results: Path, name: str) -> list[Step]:
    """All steps, in order."""

    def benchmark(script: str, path: Path, seconds: float, reserve: float) -> Step:
        command = (f"benchmarks/{script}.py", "--device", "cuda", "--json", str(path))
        return Step(f"benchmarks/{script}.py", command, seconds, reserve, takes_time_limit=True)

    operator, block, model = result_files(results, name)
    predicted = str(results / f"{name}_gpu_model.json")
    predicting = ("benchmarks/gpu_model.py", "--gpus", gpu_model.MODELLED_GPU, "--json", predicted)
    predicting += ("--measured", str(operator), str(block))
    pytest = ("-m", "pytest", "-q", "--tb=short", "--maxfail=20", "-m")
    side_by_side = ("-n", "8") if importlib.util.find_spec("xdist") else ()
    own = ("tests/kernels/test_gpu.py", "tests/upscale/test_runner.py")
    suite = (*side_by_side, "tests/kernels", "--ignore=tests/kernels/test_gpu.py")
    return [
        Step("the build", ("setup.py", "in_place"), seconds=90, reserve=375),
        # first the tests that only a GPU can run, last the vendor's checkers: they may take long
        Step("the GPU's own tests", (*pytest, "gpu and not sanitizer", *own), 70, reserve=315),
        Step("the tests", (*pytest, "gpu and not sanitizer", *suite), seconds=130, reserve=255),
        benchmark("model", model, seconds=60, reserve=205),
        benchmark("rda_conv", operator, seconds=135, reserve=145),
        benchmark("rda_block", block, seconds=70, reserve=90),
        Step("benchmarks/gpu_model.py", predicting, seconds=60, reserve=45),
        Step("compute-sanitizer", (*pytest, "sanitizer", "tests/kernels/test_gpu.py"), seconds=60, reserve=0),
    ]


def result_files(results: Path, name: str) -> list[Path]:
    """The files for the records of the operator, of the blocks and of the whole network."""
    return [results / f"{name}{suffix}.json" for suffix in ("", "_rda_block", "_model")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Build for the GPU here, test on it and measure it."""
    command = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    command.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results")
    options = command.parse_args(arguments)
    if not torch.cuda.is_available():
        command.error("make gpu needs an NVIDIA GPU, but torch finds none here")
    if not options.results.is_dir():
        command.error(f"--results is {options.results}, but must be a folder")
    results, name = options.results.resolve(), slug(torch.cuda.get_device_name())
    start = time.time()
    failed = run_all(steps(results, name), lambda: summarize(results, name), run_step)
    new = [path for path in result_files(results, name) if path.exists() and path.stat().st_mtime >= start]
    print(*(tables.titled(load(path)) for path in new), sep="\n")
    if failed:
        sys.exit(f"make gpu: not done in full: {', '.join(failed)}")


def run_all(
    todo: Sequence[Step],
    after_each: Callable[[], object],
    run: Callable[[Step, float], int],
    now: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Run the steps within SECONDS, all if the first one succeeds; return those that failed, with their failures."""
    end, failed = now() + SECONDS, []
    for index, step in enumerate(todo):
        seconds = min(step.seconds, end - now() - step.reserve)
        if seconds <= 0:
            failed.append(f"{step.title} (no time left)")
            continue
        code = run(step, seconds)
        if code:
            failed.append(f"{step.title} ({'took too long' if code == TOOK_TOO_LONG else f'exit code {code}'})")
        if code and index == 0:
            break  # old binaries must not be measured
        after_each()
    return failed


def run_step(step: Step, seconds: float) -> int:
    """Run a step's command; return its exit code, or TOOK_TOO_LONG."""
    print(f"== {step.title} (at most {seconds:.0f} s)", flush=True)
    command = [sys.executable, *step.command]
    if step.takes_time_limit:
        command += ["--time-limit", f"{max(1.0, seconds - BENCHMARK_OVERRUN):.0f}"]
    start = time.monotonic()
    output = subprocess.DEVNULL if step.takes_time_limit else None  # all tables are printed at the end
    # in a session of its own, so that its children end with it and do not disturb the next step
    process = subprocess.Popen(command, cwd=ROOT, env=environment(os.environ), stdout=output, start_new_session=True)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        code = TOOK_TOO_LONG
    print(f"== {step.title}: exit code {code} after {time.monotonic() - start:.0f} s", flush=True)
    return code


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The steps' environment: it asks for a GPU build, and leaves the choice of backends to dispatch."""
    ruling = {"MRDA_KERNELS_BACKEND", "MRDA_KERNELS_TUNE", "TRITON_INTERPRET"}
    return {key: value for key, value in outer.items() if key not in ruling} | {"MRDA_KERNELS_CUDA": "1"}


def summarize(results: Path, name: str) -> None:
    """Write the tables of the results so far."""
    measured = [load(path) for path in result_files(results, name) if path.exists()]
    if measured:
        write_text(results / f"{name}.md", "\n".join(map(tables.titled, measured)))


def slug(name: str) -> str:
    """A processor's name as a file's: "NVIDIA H200" becomes "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()
