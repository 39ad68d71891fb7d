"""Write the table by which `mrda_kernels.dispatch` picks a backend, from measured times.

    python -m benchmarks.preferences benchmarks/results

Backends are ranked for each kind of call, that is device, processor, dtype, layout and mode: by the geometric mean of
their times over the shapes measured, in which a shape that takes long counts no more than another. A backend that
failed on a shape on which another one was measured is left out, and stays behind those that never did.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from benchmarks.records import OURS, Record, holds_records, is_measured, launch, load
from mrda.core.files import write_text

OUTPUT = Path(__file__).resolve().parent.parent / "mrda_kernels" / "preferences.json"
LAYOUTS = {"nchw": "nchw", "nhwc": "channels_last"}


class Kind(NamedTuple):
    """What the ranking of backends depends on."""

    device: str
    processor: str
    dtype: str
    layout: str
    mode: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table by which mrda_kernels picks a backend, from results of benchmarks/rda_conv.py."""
    command = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    command.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="records of benchmarks/rda_conv.py, or a folder of results"
    )
    command.add_argument("--output", type=Path, default=OUTPUT, help="default: mrda_kernels/preferences.json")
    options = command.parse_args(arguments)
    try:
        given = ([path] if not path.is_dir() else results_in(path) for path in options.files)
        write([path for paths in given for path in paths], options.output)
    except (OSError, ValueError) as error:
        command.error(str(error))


def write(files: Sequence[Path], output: Path) -> None:
    """Rank the backends in all files together and write the table.

    Raises:
        ValueError: a file that holds no records of the operator, or none that tells backends' times.
    """
    rows = preferences([load(path) for path in files])
    if not rows:
        raise ValueError(f"there is no time of a backend in {', '.join(map(str, files)) or 'the folder'}")
    table = {"rows": rows, "sources": [path.name for path in files]}
    write_text(output, json.dumps(table, indent=1) + "\n")


def results_in(folder: Path) -> list[Path]:
    """The result files of the operator in a folder, by name."""
    files = [path for path in sorted(folder.glob("*.json")) if holds_records(path)]
    return [path for path in files if load(path)[0]["op"] == "rda_conv2d"]


def preferences(results: Iterable[Sequence[Record]]) -> list[dict[str, Any]]:
    """One row per kind of call, in the order they came: its backends, the fastest first."""
    # kind -> (file, shape) -> backend -> milliseconds, None where it failed
    times: dict[Kind, dict[tuple[int, tuple[int, ...]], dict[str, float | None]]] = {}
    for index, records in enumerate(results):
        for r in records:
            backend = backend_of(r)
            if backend is None or r["op"] != "rda_conv2d" or launch(r) != "eager":  # a plain call is what's dispatched
                continue
            kind = Kind(r["device"], r["processor"], r["dtype"], LAYOUTS[r["layout"]], r["mode"])
            at = times.setdefault(kind, {}).setdefault((index, tuple(r["shape"])), {})
            at[backend] = r["ms"] if is_measured(r) else None
    rows = [kind._asdict() | {"backends": ranking(list(by_shape.values()))} for kind, by_shape in times.items()]
    return [row for row in rows if row["backends"]]


def backend_of(record: Record) -> str | None:
    """The backend that a record is about; None for a peer, and for what dispatch picked itself."""
    prefix, _, name = record["provider"].partition(f"{OURS}_")
    if name and not prefix:
        return name
    # on a CPU, "mrda_kernels" is the native backend
    return "cpu" if record["provider"] == OURS and record["device"] == "cpu" else None


def ranking(times: Sequence[dict[str, float | None]]) -> list[str]:
    """The backends measured wherever any was, those with the least geometric mean first."""
    counted = [at for at in times if any(ms is not None for ms in at.values())]
    names = list(dict.fromkeys(name for at in counted for name in at))
    whole = [name for name in names if all(at.get(name) is not None for at in counted)]

    # ratios to the fastest one of each shape would give the same order: what they are divided by is the same for all
    return sorted(whole, key=lambda name: geometric_mean(at[name] for at in counted))


if __name__ == "__main__":
    main()
