"""Does the operator share torch's threads, or fight them? Times it alternating with torch's conv2d.

    python benchmarks/threads.py --json benchmarks/results/threads_cpu.json

Operators with threads of their own wait for each other's to stop spinning, so alternating would take longer
than the two take apart. The count of the process's threads shows a second pool, too. Alternating also costs
each of them the other's share of the caches: torch's own sigmoid in the operator's place shows how much.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.threads` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.nn.functional as F

from benchmarks import commands
from benchmarks.rda_conv import random_arguments
from benchmarks.records import Setting, environment
from benchmarks.timing import host_clock, interleaved
from mrda.core.files import write_text
from mrda.core.memory import keep_freed_memory
from mrda_kernels import rda_conv2d

SHAPES = ((1, 64, 64, 64), (1, 64, 180, 320))
CALLS = 20
SECONDS = 10.0
MIN_ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the RDA conv alternating with torch's conv2d, against each alone, on the CPU."""
    command = commands.parser(__doc__)
    options = command.parse_args(arguments)
    commands.check_json(command, options.json)
    commands.check_measurable(command, "cpu")

    keep_freed_memory()
    progress = commands.Progress(len(SHAPES))
    results = []
    for index, shape in enumerate(SHAPES):
        progress.show(index, str(shape))
        results.append(measure(shape))
    progress.end()
    if options.json is not None:
        write_text(options.json, json.dumps(results, indent=1) + "\n")
    for r in results:
        print(
            f"{tuple(r['shape'])}: rda_conv2d {r['op_ms']:.3f} ms, conv2d {r['conv_ms']:.3f} ms, alternating "
            f"{r['alternating_ms']:.3f} ms: {r['ratio']:.2f} times their sum ({r['control_ratio']:.2f} with torch's "
            "sigmoid in the operator's place). Threads of the process: "
            f"{r['os_threads_before']} with conv2d alone, {r['os_threads_after']} with both."
        )


def measure(shape: tuple[int, int, int, int], seconds: float = SECONDS, min_rounds: int = MIN_ROUNDS) -> dict[str, Any]:
    """Milliseconds of one call of each, of one call of both in turn, and the threads before and after.

    Threads are counted before this function's first call of the operator; None where the system doesn't tell.
    """
    arguments = random_arguments(Setting("cpu", torch.float32, "nchw", shape, "forward"))
    x = arguments.tensors[0]
    filters = torch.randn(shape[1], shape[1], 3, 3, generator=torch.Generator().manual_seed(0))

    def conv() -> None:
        F.conv2d(x, filters, padding=1)

    def op() -> None:
        rda_conv2d(*arguments.tensors, backend="cpu")

    def control() -> None:
        torch.sigmoid(x)

    def in_turn(first: Callable[[], None]) -> Callable[[], None]:
        def both() -> None:
            first()
            conv()

        return both

    with torch.no_grad():
        conv()
        before = os_threads()
        work = {"op": op, "conv": conv, "control": control, "op+conv": in_turn(op), "control+conv": in_turn(control)}
        runs = {name: repeated(run) for name, run in work.items()}
        timings = interleaved(runs, host_clock, seconds=seconds, min_rounds=min_rounds)
    op_ms, conv_ms, control_ms, alternating_ms, control_alternating_ms = (timings[name].ms / CALLS for name in runs)
    return {
        "shape": list(shape),
        "op_ms": op_ms,
        "conv_ms": conv_ms,
        "alternating_ms": alternating_ms,
        "ratio": alternating_ms / (op_ms + conv_ms),
        "control_ratio": control_alternating_ms / (control_ms + conv_ms),
        "os_threads_before": before,
        "os_threads_after": os_threads(),
        "rounds": timings["op"].rounds,
    } | environment("cpu")


def repeated(run: Callable[[], None]) -> Callable[[], None]:
    """CALLS calls in a row, so that each has the same one before it."""

    def repeat() -> None:
        for _ in range(CALLS):
            run()

    return repeat


def os_threads() -> int | None:
    """How many threads this process has; None where the system doesn't tell."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else None


if __name__ == "__main__":
    main()
