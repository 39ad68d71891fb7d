# SPDX-License-Identifier: Apache-2.0
"""Drawing and saving figures: matplotlib without its global state, PNG and CSV."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mrda.core.files import atomic_write
from mrda.core.packages import require_package

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = str | int | float | None

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of the series in order: Okabe and Ito's, which colour-blind people can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P")


def require_matplotlib(extra: str = "figures") -> None:
    """Check for matplotlib before any work.

    Raises:
        ModuleNotFoundError: matplotlib is missing; the message names the extra that brings it.
    """
    require_package("matplotlib", name="matplotlib", user="the picture", extra=extra)


def plain(text: str) -> str:
    """Escape a name that matplotlib would otherwise read as a formula ($) or leave out of legends (_...)."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def shorten(text: str, length: int = 25) -> str:
    """Shorten a name in the middle to fit into a title."""
    if len(text) <= length:
        return text
    ends = (length - 1) // 2
    return f"{text[:ends]}\N{HORIZONTAL ELLIPSIS}{text[-ends:]}"


def new_figure(width: float, height: float, *, extra: str = "figures") -> Figure:
    """Make an empty figure in memory; width and height are in inches.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    require_matplotlib(extra)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def add_frame(axes: Axes, square: tuple[int, int, int]) -> None:
    """Frame a square (top, left, size) of the picture in `axes`, in its pixels."""
    from matplotlib.patches import Rectangle

    top, left, size = square
    # Pixel centres lie at whole numbers, so that the square begins half a pixel before its first.
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor="#ffd400", linewidth=1.5))


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the picture, in the format of the suffix of `path`; it appears whole or not at all."""
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name; a box stands for the letter
        kind = Path(path).suffix.removeprefix(".") or "png"
        figure.savefig(file, format=kind, dpi=150, bbox_inches="tight", pad_inches=0.08, facecolor="white")


def csv_beside(path: str | Path) -> Path:
    """The file for a picture's data: of the picture's stem, in the same folder."""
    return Path(path).with_suffix(".csv")
