"""Pictures of the benchmarks' records, for docs/performance.md.

python -m benchmarks.plots
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.records import FLOORS, MODES, OURS, holds_records, load
from benchmarks.tables import COMPILED, Row, best_layouts
from mrda.core.files import atomic_write
from mrda.paper.figures.canvas import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THIS = "this package"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the records of a folder: FOLDER/NAME.json becomes OUTPUT/speed-NAME.svg."""
    command = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    command.add_argument("--results", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    command.add_argument("-o", "--output", type=Path, default=Path("docs/images"), metavar="FOLDER")
    options = command.parse_args(arguments)
    for option, folder in (("--results", options.results), ("--output", options.output)):
        if not folder.is_dir():
            command.error(f"{option} is {folder}, but must be a folder")
    for path in sorted(options.results.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for row in best_layouts(load(path)) if ours(row)] if holds_records(path) else []
        if rows:
            figure = speed(rows)
        elif isinstance(content, list) and all("way" in record for record in content):
            figure = training(content)
        else:
            continue
        picture = options.output / f"speed-{path.stem}.svg"
        save(figure, picture)
        print(picture)


def speed(rows: Sequence[Row]) -> "Figure":
    """How many times as long as ours each provider takes, in the better of its layouts; a panel for each mode.

    Each row has a time of ours.
    """
    panels = {mode: [row for row in rows if row.mode == mode] for mode in MODES}
    panels = {mode: chosen for mode, chosen in panels.items() if chosen}
    figure, axes = _panels([len(chosen) for chosen in panels.values()])
    for panel, (mode, chosen) in zip(axes, panels.items(), strict=True):
        floor = FLOORS[chosen[0].op]
        bars = {
            "released": [_times_ours(row, "released") for row in chosen],
            "best torch.compile": [_times_ours(row, *COMPILED) for row in chosen],
            f"{floor} alone": [_times_ours(row, floor) for row in chosen],
        }
        panel.axvline(1, color=COLOURS[3], linewidth=1.5, label=THIS)
        draw(panel, [_group(row) for row in chosen], bars)
        panel.set_xlabel(f"times as long as {THIS}")
        panel.set_title(mode.replace("_", " + "), loc="left")
    return figure


def training(records: Sequence[dict[str, Any]]) -> "Figure":
    """Images per second of each stage, by each way to take a step."""
    speeds = {(record["way"], record["stage"]): record["images_per_second"] for record in records}
    ways, stages = (list(dict.fromkeys(record[key] for record in records)) for key in ("way", "stage"))
    figure, (panel,) = _panels([len(stages)])
    draw(panel, stages, {way: [speeds.get((way, stage)) for stage in stages] for way in ways})
    panel.set_xlabel("images per second, more is better")
    return figure


def _panels(groups: Sequence[int]) -> tuple["Figure", Sequence["Axes"]]:
    """A figure with a panel for each number of groups, as high as they need."""
    heights = [0.9 + 0.4 * number for number in groups]
    figure = new_figure(9, sum(heights))
    return figure, figure.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]


def draw(axes: "Axes", groups: Sequence[str], bars: Mapping[str, Sequence[float | None]]) -> None:
    """Bars of each name, one below the other, in each group from top to bottom; none for what was not measured."""
    width = 0.8 / len(bars)
    for number, (name, lengths) in enumerate(bars.items()):
        places = [(group + width * (number - (len(bars) - 1) / 2), length) for group, length in enumerate(lengths)]
        there = [(place, length) for place, length in places if length is not None]
        if there:
            axes.barh(*zip(*there, strict=True), width, label=name, color=COLOURS[number])
    axes.set_yticks(range(len(groups)), groups, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, ncols=len(bars) + 1, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))


def ours(row: Row) -> float | None:
    """The milliseconds of this package: of its operator, or of its whole network."""
    return row.ms(OURS, "mrda")


def _times_ours(row: Row, *providers: str) -> float | None:
    theirs, mine = row.ms(*providers), ours(row)
    return None if theirs is None or mine is None else theirs / mine


def _group(row: Row) -> str:
    words = ("" if row.op == "rda_conv2d" else row.op, "x".join(map(str, row.shape)), row.dtype)
    return " ".join((*filter(None, words), *(() if row.launch == "eager" else (row.launch,))))


def save(figure: "Figure", path: Path) -> None:
    """Write an SVG, the same for the same records."""
    import matplotlib

    figure.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": path.stem}), atomic_write(path) as temporary:
        figure.savefig(temporary, format="svg", facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
