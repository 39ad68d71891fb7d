"""Tables of the operator's benchmark: for the terminal, and in Markdown for the README.

To bring the README up to date::

    python -m benchmarks.table benchmarks/results/rda_conv_cpu.json --update README.md
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mrda.files import atomic_write

Record = dict[str, Any]
"""One provider's time in one setting, as `benchmarks.rda_conv.measure` makes it."""

SECTION = "speed"
COMPILED = ("released_compiled", "shift_add_compiled")


@dataclass(frozen=True)
class Row:
    """One shape, dtype and mode, with each provider's milliseconds in the layout that is better for it."""

    shape: tuple[int, ...]
    dtype: str
    mode: str
    ms: dict[str, float]

    @property
    def label(self) -> tuple[str, str, str]:
        """Shape, dtype and mode in words."""
        return _shape(self.shape), self.dtype, _mode(self.mode)

    @property
    def best_compiled(self) -> float:
        """The milliseconds of the faster one of the compiled peers."""
        return min(self.ms[name] for name in COMPILED)

    @property
    def ratios(self) -> tuple[str, str, str]:
        """The released way's time and the best compiled peer's over ours, and ours over the copy's."""
        ours = self.ms["mrda_kernels"]
        ratios = (self.ms["released"] / ours, self.best_compiled / ours, ours / self.ms["copy"])
        return _times(ratios[0]), _times(ratios[1]), _times(ratios[2])


def best_layouts(records: Iterable[Record]) -> list[Row]:
    """One row per shape, dtype and mode, in the order they came."""
    times: dict[tuple[tuple[int, ...], str, str], dict[str, float]] = {}
    for record in records:
        ms = times.setdefault((tuple(record["shape"]), record["dtype"], record["mode"]), {})
        name = record["provider"]
        ms[name] = min(record["ms"], ms.get(name, record["ms"]))
    return [Row(*key, ms) for key, ms in times.items()]


def details(records: Sequence[Record]) -> Table:
    """Every record, for the terminal: one section per setting, and what the setting is beside it."""
    table = Table("setting", "provider", title="Every provider in every setting")
    for heading in ("ms", "GB/s", "times\nthe copy", "mrda_kernels\nis faster"):
        table.add_column(heading, justify="right")
    sections: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        sections.setdefault(_setting(record), []).append(record)
    for (shape, dtype, layout, mode), section in sections.items():
        ours = next(r["ms"] for r in section if r["provider"] == "mrda_kernels")
        for fact, r in zip((_shape(shape), dtype, layout, _mode(mode), ""), section, strict=True):
            is_peer = r["provider"] not in {"mrda_kernels", "copy"}
            numbers = f"{r['ms']:.2f}", f"{r['gbps']:.1f}", _times(r["floor_ratio"])
            table.add_row(fact, r["provider"], *numbers, _times(r["ms"] / ours) if is_peer else "")
        table.add_section()
    return table


def summary(records: Iterable[Record]) -> Table:
    """The better of the two layouts for each provider, for the terminal."""
    table = Table("shape", "dtype", "mode", title="Each provider in the better of its two layouts")
    for heading in ("ms", "faster than\nreleased", "faster than\ncompiled", "times\nthe copy"):
        table.add_column(heading, justify="right")
    for row in best_layouts(records):
        table.add_row(*row.label, f"{row.ms['mrda_kernels']:.2f}", *row.ratios)
    return table


def footer(records: Sequence[Record]) -> list[str]:
    """What the numbers mean and what they were measured on, in sentences."""
    first = records[0]
    copies = [r["ms"] / r["ms_into_existing"] for r in records if r["provider"] == "copy"]
    return [
        f"Measured on {first['processor']} with {first['threads']} threads, torch {first['torch']}: "
        "medians of interleaved rounds.",
        "The copy moves the bytes that the operator has to read and write, in tensors of the input's size: "
        "2 forward, 5 with the backward.",
        "Like every provider it makes a fresh result, and fresh memory costs time: into tensors that exist, "
        f"it is {_times(min(copies))} to {_times(max(copies))} as fast.",
        *_saved(records),
    ]


def markdown(records: Sequence[Record]) -> str:
    """The better of the two layouts for each provider, as Markdown that ends in a newline."""
    headings = (
        *("Shape", "dtype", "mode", "released (ms)", "best `torch.compile` (ms)", "copy (ms)"),
        *("`mrda_kernels` (ms)", "faster than released", "faster than compiled", "times the copy"),
    )
    lines = [_line(headings), "|---|---|---|" + "---:|" * (len(headings) - 3)]
    for row in best_layouts(records):
        times = row.ms["released"], row.best_compiled, row.ms["copy"], row.ms["mrda_kernels"]
        lines.append(_line((*row.label, *(f"{ms:.2f}" for ms in times), *row.ratios)))
    notes = ["Each provider in the better of its two layouts (NCHW, channels_last).", *footer(records)]
    return "\n".join([*lines, "", *notes]) + "\n"


def markers(section: str) -> tuple[str, str]:
    """The comments that a section's table stands between."""
    return f"<!-- {section}:begin -->", f"<!-- {section}:end -->"


def insert(text: str, content: str, section: str = SECTION) -> str:
    """Replace what stands between a section's markers in `text` by `content`.

    Raises:
        ValueError: where `text` doesn't have each marker once, the first one first.
    """
    begin, end = markers(section)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the file to update must hold one {begin} and, after it, one {end}")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n{content}{end}{after}"


def load(path: Path) -> list[Record]:
    """Read the records of a result file.

    Raises:
        ValueError: a file that isn't a list of this benchmark's records.
    """
    records = json.loads(path.read_text(encoding="utf-8"))
    if not (isinstance(records, list) and records and all(map(_is_record, records))):
        raise ValueError(f"{path} is not a list of records of benchmarks/rda_conv.py")
    return records


def main(
    file: Annotated[Path, typer.Argument(help="Records that benchmarks/rda_conv.py has written.")],
    update: Annotated[Path | None, typer.Option(help="Put the table into this file, between its markers.")] = None,
    section: Annotated[str, typer.Option(help="The markers' name: <!-- NAME:begin -->, <!-- NAME:end -->.")] = SECTION,
) -> None:
    """Turn records into a Markdown table: print it, or put it into a file."""
    try:
        table = markdown(load(file))
        text = table if update is None else insert(update.read_text(encoding="utf-8"), table, section)
    except (OSError, ValueError) as error:  # a JSON error is a ValueError
        raise typer.BadParameter(str(error)) from error
    if update is None:
        typer.echo(text, nl=False)
        return
    with atomic_write(update) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and value.get("op") == "rda_conv2d"


def _setting(record: Record) -> tuple[Any, ...]:
    return tuple(record["shape"]), record["dtype"], record["layout"], record["mode"]


def _saved(records: Iterable[Record]) -> list[str]:
    """The bytes kept for the backward, at the first setting where they were counted."""
    counted = [r for r in records if "saved_bytes" in r]
    if not counted:
        return []
    shape, dtype, layout, _ = setting = _setting(counted[0])
    kept = {r["provider"]: f"{r['saved_bytes'] / 2**20:.1f} MiB" for r in counted if _setting(r) == setting}
    return [
        f"Kept alive for the backward at {_shape(shape)} {dtype} {layout}: {kept['mrda_kernels']}, "
        f"which is the inputs; by the released way {kept['released']}."
    ]


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _mode(mode: str) -> str:
    return mode.replace("_", " + ")


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
