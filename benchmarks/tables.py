"""Records as tables, in plain text or Markdown, and what their numbers mean in sentences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.records import FLOORS, OURS, Record, is_measured, launch

COMPILED = ("released_compiled", "shift_add_compiled")
MISSING = "-"


@dataclass(frozen=True)
class Table:
    """Cells in words.

    Attributes:
        headings: of the columns; may hold Markdown's backticks.
        rows: cells, as many in each as there are headings.
        texts: how many columns, from the left, hold words; the others hold numbers.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int

    def markdown(self) -> str:
        """The table as Markdown that ends in a newline."""
        rule = "|---" * self.texts + "|---:" * (len(self.headings) - self.texts) + "|"
        return "\n".join([_line(self.headings), rule, *map(_line, self.rows)]) + "\n"

    def text(self) -> str:
        """The table for a terminal, in columns, ending in a newline."""
        lines = [[cell.replace("`", "") for cell in row] for row in (self.headings, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = (
            "  ".join(
                cell.ljust(width) if index < self.texts else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in lines
        )
        return "\n".join(aligned) + "\n"


@dataclass(frozen=True)
class Row:
    """One op, shape, dtype, mode and launch, with each provider's best time of its layouts."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    mode: str
    launch: str
    best: dict[str, Record]

    @property
    def label(self) -> tuple[str, str, str]:
        """Shape, dtype and mode in words."""
        return _shape(self.shape), self.dtype, _mode(self.mode)

    @property
    def floor(self) -> float | None:
        """The floor's milliseconds."""
        return self.ms(FLOORS[self.op])

    @property
    def best_peer(self) -> str | None:
        """The fastest one that is neither ours nor the floor."""
        peers = [name for name in self.best if not name.startswith(OURS) and name != FLOORS[self.op]]
        return min(peers, key=lambda name: self.best[name]["ms"], default=None)

    @property
    def best_peer_in_words(self) -> str:
        """Its name; where no compiled peer was measured, which might have been faster, that as well."""
        if self.best_peer is None or self.ms(*COMPILED) is not None:
            return self.best_peer or MISSING
        return f"{self.best_peer} (none compiled)"

    def ms(self, *providers: str | None) -> float | None:
        """The least of the providers' milliseconds; None where none of them was measured."""
        return min((self.best[name]["ms"] for name in providers if name in self.best), default=None)


def best_layouts(records: Iterable[Record]) -> list[Row]:
    """One row per op, shape, dtype, mode and launch, in the order they came."""
    found: dict[tuple[Any, ...], dict[str, Record]] = {}
    for r in records:
        key = (r["op"], tuple(r["shape"]), r["dtype"], r["mode"], launch(r))
        best = found.setdefault(key, {})
        name = r["provider"]
        if is_measured(r) and (name not in best or r["ms"] < best[name]["ms"]):
            best[name] = r
    return [Row(*key, best) for key, best in found.items()]


def summary(records: Sequence[Record]) -> Table:
    """The better of the two layouts for each provider."""
    rows = best_layouts(records)
    if records[0]["op"] == "model":
        return _model_summary(records)
    if records[0]["op"] != "rda_conv2d":
        return _block_summary(rows)
    return _cpu_summary(rows) if records[0]["device"] == "cpu" else _gpu_summary(rows)


def details(records: Sequence[Record]) -> Table:
    """Every record."""
    floor = FLOORS[records[0]["op"]]
    headings = ["Op", "Shape", "dtype", "layout", "mode", "launch", "provider", "ms", "GB/s", f"times the {floor}"]
    rows = []
    for r in records:
        setting = (r["op"], _shape(r["shape"]), r["dtype"], r["layout"], _mode(r["mode"]), launch(r), r["provider"])
        if is_measured(r):
            rows.append((*setting, _fine_ms(r["ms"]), f"{r['gbps']:.1f}", _times(r.get("floor_ratio"))))
        else:
            rows.append((*setting, *[MISSING] * 3))
    return Table(headings, rows, texts=7)


def notes(records: Sequence[Record]) -> list[str]:
    """What the numbers mean and what they were measured on, in sentences."""
    if records[0]["op"] == "model":
        return [_measured_on(records), *_model_notes(records), *_absent(records)]
    if records[0]["op"] != "rda_conv2d":
        return [_measured_on(records), *_block_notes(records), *_absent(records)]
    if records[0]["device"] == "cpu":
        meaning = _copies(records)
    else:
        meaning = [
            "Each call takes inputs that are not in the GPU's L2 cache; float32 is without TF32, but for the peer "
            "released_tf32. A launch is a plain call or, for short work, also one in the replay of a CUDA graph.",
            "The bandwidth is that of the bytes the operator has to read and write, against a copy of as many: in "
            "tensors of the input's size, 2 forward, 5 with the backward.",
        ]
    return [_measured_on(records), *meaning, *_saved(records), *_absent(records)]


def document(records: Sequence[Record]) -> str:
    """The summary and what it means, as Markdown that ends in a newline."""
    layouts = "Each provider in the better of its two layouts (NCHW, channels_last)."
    if len({r["layout"] for r in records}) == 1:
        layouts = f"All in one layout, {_layout(records[0]['layout'])}."
    return "\n".join([summary(records).markdown(), layouts, *notes(records)]) + "\n"


def _cpu_summary(rows: Iterable[Row]) -> Table:
    headings = (
        *("Shape", "dtype", "mode", "released (ms)", "best `torch.compile` (ms)", "copy (ms)"),
        *("`mrda_kernels` (ms)", "faster than released", "faster than compiled", "times the copy"),
    )
    cells = []
    for row in rows:
        released, compiled, ours = row.ms("released"), row.ms(*COMPILED), row.ms(OURS)
        times = map(_ms, (released, compiled, row.floor, ours))
        ratios = (_ratio(released, ours), _ratio(compiled, ours), _ratio(ours, row.floor))
        cells.append((*row.label, *times, *ratios))
    return Table(headings, cells, texts=3)


def _gpu_summary(rows: Iterable[Row]) -> Table:
    headings = (
        *("Shape", "dtype", "mode", "launch", "best peer", "best peer (ms)", "released (ms)", "copy (ms)"),
        *("`mrda_kernels` (ms)", "faster than released", "faster than best peer", "of the copy's bandwidth"),
    )
    cells = []
    for row in rows:
        peer, released, ours = row.ms(row.best_peer), row.ms("released"), row.ms(OURS)
        times = map(_fine_ms, (peer, released, row.floor, ours))
        share = MISSING if ours is None or row.floor is None else f"{100 * row.floor / ours:.0f} %"
        ratios = (_ratio(released, ours), _ratio(peer, ours))
        cells.append((*row.label, row.launch, row.best_peer_in_words, *times, *ratios, share))
    return Table(headings, cells, texts=5)


def _block_summary(rows: Iterable[Row]) -> Table:
    headings = (
        *("Op", "Shape", "dtype", "mode", "launch", "best peer", "best peer (ms)", "released (ms)"),
        *("convolutions alone (ms)", "`mrda_kernels` (ms)", "faster than released", "faster than best peer"),
        *("peak memory (MiB)", "released's (MiB)"),
    )
    cells = []
    for row in rows:
        peer, released, ours = row.ms(row.best_peer), row.ms("released"), row.ms(OURS)
        times = map(_ms, (peer, released, row.floor, ours))
        ratios = (_ratio(released, ours), _ratio(peer, ours))
        peaks = (row.best.get(name, {}).get("peak_bytes") for name in (OURS, "released"))
        memory = (MISSING if peak is None else f"{peak / 2**20:.1f}" for peak in peaks)
        cells.append((row.op, *row.label, row.launch, row.best_peer_in_words, *times, *ratios, *memory))
    return Table(headings, cells, texts=6)


def _model_summary(records: Sequence[Record]) -> Table:
    headings = (
        *("Shape", "provider", "dtype", "launch", "ms", "faster than released in float32"),
        *("than it compiled, same dtype", "parameters (M)", "mult-adds (G)", "peak memory (MiB)"),
    )
    times = {(tuple(r["shape"]), launch(r), r["provider"], r["dtype"]): r["ms"] for r in records if is_measured(r)}
    cells = []
    for r in records:
        if not is_measured(r):
            continue
        where = tuple(r["shape"]), launch(r)
        released = times.get((*where, "released", "float32"))
        compiled = times.get((*where, "released_compiled", r["dtype"]))
        peak = MISSING if "peak_bytes" not in r else f"{r['peak_bytes'] / 2**20:.0f}"
        costs = (f"{r['parameters'] / 1e6:.2f}", f"{r['mult_adds'] / 1e9:.1f}", peak)
        ratios = (_ratio(released, r["ms"]), _ratio(compiled, r["ms"]))
        cells.append((_shape(where[0]), r["provider"], r["dtype"], where[1], _ms(r["ms"]), *ratios, *costs))
    return Table(headings, cells, texts=4)


def _model_notes(records: Sequence[Record]) -> list[str]:
    notes = [
        "All networks take LR (B, 3, H, W) in channels_last to SR; static_convs is the published network's 3x3 "
        "convolutions and pixel shuffles, and nothing else. Mult-adds are those that are executed for the batch. On a "
        "GPU a plain call of mrda replays a graph of its trunk.",
    ]
    for r in records:
        if "parts" in r:
            parts = ", ".join(f"{part} {100 * share:.0f} %" for part, share in r["parts"].items())
            where = f"{r['provider']} in {r['dtype']} at {_shape(r['shape'])}"
            notes.append(f"Of the time of {where}, launched one by one and each waited for: {parts}.")
    return notes


def _measured_on(records: Sequence[Record]) -> str:
    first = records[0]
    if first["device"] == "cpu":
        where = f"{first['processor']} with {first['threads']} threads, torch {first['torch']}"
    else:
        where = f"{first['processor']}, torch {first['torch']}, triton {first.get('triton') or 'missing'}"
    return f"Measured on {where}: medians of interleaved rounds."


def _copies(records: Sequence[Record]) -> list[str]:
    copies = [r["ms"] / r["ms_into_existing"] for r in records if "ms_into_existing" in r]
    return [
        "The copy moves the bytes that the operator has to read and write, in tensors of the input's size: "
        "2 forward, 5 with the backward.",
        "Like every provider it makes a fresh result, and fresh memory costs time: into tensors that exist, "
        f"it is {_times(min(copies))} to {_times(max(copies))} as fast.",
    ]


def _saved(records: Iterable[Record]) -> list[str]:
    """The bytes kept for the backward, at the first setting where they were counted."""
    counted = [r for r in records if "saved_bytes" in r]
    if not counted:
        return []
    shape, dtype, layout, _ = setting = _setting(counted[0])
    kept = {r["provider"]: f"{r['saved_bytes'] / 2**20:.1f} MiB" for r in counted if _setting(r) == setting}
    return [
        f"Kept alive for the backward at {_shape(shape)} {dtype} {layout}: {kept.get(OURS, MISSING)}, "
        f"which is the inputs; by the released way {kept.get('released', MISSING)}."
    ]


def _block_notes(records: Sequence[Record]) -> list[str]:
    where = "torch's allocator, as its profiler counts it" if records[0]["device"] == "cpu" else "the GPU's allocator"
    return [
        "Op rdab is one RDA block, trunk is 27 of them; a compiled peer of the trunk is one compiled block, 27 times. "
        "The convolutions alone are the blocks' 3x3 ones, the same for every way.",
        f"Peak memory is what a call holds at a time on top of its inputs and the parameters, from {where}.",
    ]


def _absent(records: Iterable[Record]) -> list[str]:
    """Who was not measured, how often, for each reason."""
    counts: dict[tuple[str, str], int] = {}
    for r in records:
        if not is_measured(r):
            key = (r["provider"], r["absent"])
            counts[key] = counts.get(key, 0) + 1
    return [f"Not measured: {name}, {count}x ({reason})." for (name, reason), count in counts.items()]


def _setting(record: Record) -> tuple[Any, ...]:
    return tuple(record["shape"]), record["dtype"], record["layout"], record["mode"]


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _layout(layout: str) -> str:
    return {"nhwc": "channels_last", "nchw": "NCHW"}[layout]


def _mode(mode: str) -> str:
    return mode.replace("_", " + ")


def _ms(ms: float | None) -> str:
    return MISSING if ms is None else f"{ms:.2f}"


def _fine_ms(ms: float | None) -> str:
    """Milliseconds to the microsecond, which is much on a GPU."""
    return MISSING if ms is None else f"{ms:.3f}"


def _times(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{ratio:.1f}x"


def _ratio(numerator: float | None, denominator: float | None) -> str:
    return MISSING if numerator is None or denominator is None else _times(numerator / denominator)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
