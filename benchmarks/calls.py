# SPDX-License-Identifier: Apache-2.0
"""Time what a call of the RDA conv costs beside its arithmetic: at 2x2 pixels, on one thread of a CPU.

    python benchmarks/calls.py --json benchmarks/results/calls_cpu.json

Providers: "mrda_kernels", the backend "cpu"; "released", the released network's way; and "grouped_conv2d", torch's
convolution of the same channels alone, the floor. Times are processor time of the calling thread, which other programs
do not lengthen by their turns.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.calls` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.nn.functional as F

from benchmarks import tables
from benchmarks.commands import check_json, parser
from benchmarks.harness import Arguments, Run, call, interleaved
from benchmarks.peers import released
from benchmarks.rda_conv import random_arguments
from benchmarks.records import MODES, OURS, Setting
from mrda.core.environment import timing_environment
from mrda.core.files import write_text
from mrda_kernels import rda_conv2d
from mrda_kernels.backends import cpu

SHAPE = (1, 64, 2, 2)
CALLS = 200  # that are timed together
SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write the records."""
    command = parser(__doc__ or "")
    options = command.parse_args(arguments)
    check_json(command, options.json)
    if reason := cpu.why_not("cpu"):
        command.error(f"there is nothing to measure: {reason}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the thread whose time counts does all the work
    try:
        records = [record for mode in MODES for record in measure(mode)]
    finally:
        torch.set_num_threads(threads)
    if options.json is not None:
        write_text(options.json, json.dumps(records, indent=1) + "\n")
    print(tables.calls(records), end="")


def providers(mode: str) -> dict[str, Run]:
    """The calls to time, by provider."""
    arguments = random_arguments(Setting("cpu", torch.float32, "nchw", SHAPE, mode))
    input, weight, *_ = arguments.tensors
    channels = SHAPE[1]
    filters = weight.detach().reshape(channels, 1, *weight.shape[2:]).requires_grad_(weight.requires_grad)
    convolution = partial(F.conv2d, padding=weight.shape[-1] // 2, groups=channels)
    return {
        "grouped_conv2d": call(convolution, Arguments((input, filters), arguments.grad_output), mode),
        "released": call(released, arguments, mode),
        OURS: call(partial(rda_conv2d, backend="cpu"), arguments, mode),
    }


def measure(mode: str) -> list[Mapping[str, Any]]:
    """Time all providers; return a record of each."""
    with torch.set_grad_enabled(mode != "forward"):
        times = interleaved(providers(mode), processor_clock, seconds=SECONDS, min_rounds=5, rest=0.0)
    return [
        {"provider": name, "mode": mode, "shape": list(SHAPE), "us": 1000 * ms, "rounds": rounds}
        | timing_environment("cpu")
        for name, (ms, rounds) in times.items()
    ]


def processor_clock(run: Run) -> float:
    """Milliseconds of the processor that this thread takes for a call."""
    start = time.thread_time()
    for _ in range(CALLS):
        run()
    return 1000 * (time.thread_time() - start) / CALLS


if __name__ == "__main__":
    main()
