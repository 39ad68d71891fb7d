# SPDX-License-Identifier: Apache-2.0
"""Pictures for the eye: SR beside bicubic and HR, and where the modulation map is bright."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mrda.paper.figures.canvas import add_frame, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMN_WIDTH = 2.4  # inches


@dataclass(frozen=True)
class Comparison:
    """One row of the picture: a photo under one degradation.

    Args:
        caption: the photo and its degradation.
        bicubic: LR enlarged by bicubic interpolation, (H, W, 3) uint8.
        sr: the network's result, (H, W, 3) uint8.
        hr: the original, (H, W, 3) uint8.
        modulation: the mean mask of the RDA convs (Eq. 9), (H', W') in [0, 1], at LR resolution.
        psnr_bicubic: PSNR-Y of `bicubic`, in dB.
        psnr_sr: PSNR-Y of `sr`, in dB.
        crop: top, left, size of the square shown enlarged, in HR pixels.

    Raises:
        ValueError: pictures of different shapes, or a crop that reaches outside.
    """

    caption: str
    bicubic: npt.NDArray[np.uint8]
    sr: npt.NDArray[np.uint8]
    hr: npt.NDArray[np.uint8]
    modulation: npt.NDArray[np.floating]
    psnr_bicubic: float
    psnr_sr: float
    crop: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not self.bicubic.shape == self.sr.shape == self.hr.shape:
            raise ValueError(
                f"bicubic, sr and hr have shapes {self.bicubic.shape}, {self.sr.shape} and {self.hr.shape}, "
                "but must have one"
            )
        check_crop(self.crop, *self.hr.shape[:2])


def check_crop(crop: tuple[int, int, int], height: int, width: int) -> None:
    """Raise ValueError unless the square (top, left, size) lies inside a picture."""
    top, left, size = crop
    if min(top, left) < 0 or size < 1 or top + size > height or left + size > width:
        raise ValueError(f"crop is {crop}, but must lie inside {height} x {width}")


def save_comparison(rows: Sequence[Comparison], path: str | Path) -> None:
    """Save the side-by-side picture; the file appears whole or not at all.

    Columns: the photo with the crop framed; the crop by bicubic, by MRDA_S and of HR; the modulation map of
    the whole photo, stretched over its range.

    Args:
        rows: one or more comparisons.
        path: the file to write, PNG by its suffix.

    Raises:
        ValueError: no rows.
        ModuleNotFoundError: matplotlib is missing; the message names the extra that brings it.
    """
    if not rows:
        raise ValueError("rows must hold one comparison at least")
    save_figure(_draw(rows), path)


def _draw(rows: Sequence[Comparison]) -> "Figure":
    # Photo and map keep the photo's proportions at the crops' height, so that a row has no gaps.
    aspects = [row.hr.shape[1] / row.hr.shape[0] for row in rows]
    wide = max(aspects)
    widths = [wide, 1, 1, 1, wide]
    figure = new_figure(_COLUMN_WIDTH * sum(widths), _COLUMN_WIDTH * 1.12 * len(rows), extra="demo")
    grid = {"width_ratios": widths, "wspace": 0.03, "hspace": 0.12}
    axes = figure.subplots(len(rows), len(widths), squeeze=False, gridspec_kw=grid)
    for row, cells in zip(rows, axes, strict=True):
        top, left, size = row.crop
        window = np.s_[top : top + size, left : left + size]
        cells[0].imshow(row.hr)
        add_frame(cells[0], row.crop)
        for cell, picture in zip(cells[1:4], (row.bicubic, row.sr, row.hr), strict=True):
            cell.imshow(picture[window], interpolation="nearest")
        cells[4].imshow(row.modulation, cmap="magma", interpolation="bilinear")
        titles = (
            row.caption,
            f"bicubic, {row.psnr_bicubic:.2f} dB",
            f"MRDA$_S$, {row.psnr_sr:.2f} dB",
            "HR",
            "modulation map",
        )
        for cell, title in zip(cells, titles, strict=True):
            cell.set_axis_off()
            cell.set_title(title, fontsize=9)
    return figure
