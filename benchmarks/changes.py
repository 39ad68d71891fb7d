"""What each change to the network's inference gives: the network as it is, and with one change undone at a time.

    python benchmarks/changes.py --json benchmarks/results/changes_cpu.json --update docs/performance.md

MRDA_S x4 at LR 180x320 (or --size), float32 and bfloat16, launched one by one and interleaved.
"""

import copy
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.changes` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor

from benchmarks import commands
from benchmarks.model import OneByOne, random_network
from benchmarks.records import dtype_name, environment
from benchmarks.table import Page
from benchmarks.tables import Table
from benchmarks.timing import clock_for, interleaved
from mrda.core.files import write_text
from mrda.core.memory import keep_freed_memory
from mrda.networks import MRDAStudent

SIZE = (180, 320)
SECONDS = 40.0
MIN_ROUNDS = 4
SECTION = "changes"
AS_IT_IS = "as it is"

Model = Callable[[Tensor], Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the network with one change undone at a time."""
    command = commands.parser(__doc__)
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (default: cpu)")
    command.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("H", "W"), help="of LR")
    command.add_argument("--update", type=Path, metavar="FILE", help="put the table into this file, at its markers")
    options = command.parse_args(arguments)
    commands.check_json(command, options.json)
    commands.check_measurable(command, options.device)
    try:
        page = None if options.update is None else Page(options.update, SECTION)
    except (OSError, ValueError) as error:
        command.error(str(error))
    keep_freed_memory()
    network = random_network(options.device)
    records = [
        record
        for dtype in (torch.float32, torch.bfloat16)
        for record in measure(network, options.device, tuple(options.size), dtype)
    ]
    if options.json is not None:
        write_text(options.json, json.dumps(records, indent=1) + "\n")
    print(table(records).text())
    if page is not None:
        page.update(document(records))


def measure(network: MRDAStudent, device: str, size: tuple[int, int], dtype: torch.dtype) -> list[dict[str, Any]]:
    """A record for the network as it is, and for each change undone."""
    lr = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    runs = {name: partial(model, lr) for name, model in undone(network, dtype).items()}
    with torch.no_grad():
        timings = interleaved(runs, clock_for(device), seconds=SECONDS, min_rounds=MIN_ROUNDS)
    ours = timings[AS_IT_IS].ms
    return [
        {"undone": name, "dtype": dtype_name(dtype), "size": list(size), "ms": ms, "ratio": ms / ours, "rounds": rounds}
        | environment(device)
        for name, (ms, rounds) in timings.items()
    ]


def undone(network: MRDAStudent, dtype: torch.dtype) -> dict[str, Model]:
    """Build the network in evaluation as it is, and without each of its changes."""
    chain = OneByOne(network, dtype)
    chain.trunk.upscaler = lambda features: network.rdan.upscaler(features.float())  # type: ignore[assignment]
    return {
        AS_IT_IS: _channels_last(OneByOne(network, dtype)),
        "the upscaler's convolutions one after the other": _channels_last(chain),
        "NCHW": OneByOne(copy.deepcopy(network).to(memory_format=torch.contiguous_format), dtype),
    }


def table(records: Sequence[dict[str, Any]]) -> Table:
    """Milliseconds, and how many times as long."""
    rows = [(r["undone"], r["dtype"], f"{r['ms']:.0f}", f"{r['ratio']:.2f}x") for r in records]
    return Table(("Undone", "dtype", "ms", "times as long"), rows, texts=2)


def document(records: Sequence[dict[str, Any]]) -> str:
    """The table and where it was measured, as Markdown that ends in a newline."""
    first = records[0]
    where = f"{first['processor']} with {first['threads']} threads, torch {first['torch']}"
    height, width = first["size"]
    return f"{table(records).markdown()}\nMRDA_S x4 at LR {height}x{width} on {where}: medians of interleaved rounds.\n"


def _channels_last(model: Model) -> Model:
    return lambda lr: model(lr.contiguous(memory_format=torch.channels_last))


if __name__ == "__main__":
    main()
