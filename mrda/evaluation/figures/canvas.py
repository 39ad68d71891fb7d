"""Where a figure is drawn and what is written of it: matplotlib without its global state, PNG and CSV."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrda.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of the first series, the second, ...: Okabe and Ito's, which colour-blind people tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P")


def require_matplotlib(extra: str = "figures") -> None:
    """Refuse early where no picture can be drawn.

    Raises:
        ModuleNotFoundError: matplotlib is missing; the message names the extra that brings it.
    """
    try:
        found = importlib.util.find_spec("matplotlib") is not None
    except ValueError:  # a module that is barred from import has no spec
        found = False
    if not found:
        raise ModuleNotFoundError(
            f"the picture needs matplotlib: pip install 'mrda-kernels[{extra}]'", name="matplotlib"
        )


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, drawn in memory.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the picture, PNG by the suffix of `path`; it appears whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight", pad_inches=0.08, facecolor="white")


def csv_beside(path: str | Path) -> Path:
    """The file for a picture's data: of the picture's stem, in the same folder."""
    return Path(path).with_suffix(".csv")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a table in UTF-8; it appears whole or not at all.

    Args:
        path: the file.
        header: the names of the columns.
        rows: as long as the header each; floats are written so that they read back to the bit, None as nothing.
    """
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
