# SPDX-License-Identifier: Apache-2.0
"""Figs 3-6: a photo, and a detail of it restored by several methods, with the PSNR-Y of the whole photo."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mrda.core.files import write_csv
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods_loading import METHOD_NAMES
from mrda.evaluation.metrics import psnr_y
from mrda.evaluation.samples import Condition, Method, make_sample
from mrda.networks import MRDAStudent
from mrda.paper.figures.canvas import (
    Cell,
    add_frame,
    csv_beside,
    new_figure,
    plain,
    save_figure,
    shorten,
)
from mrda.paper.figures.comparison import check_crop
from mrda.paper.figures.photos import FigurePhoto
from mrda.photo.crops import most_detailed_crop
from mrda.photo.images import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = (
    *("photo", "condition", "noise", "scale", "width", "height", "cropped", "crop_x", "crop_y", "crop_size"),
    *("method", "psnr_y"),
)
BICUBIC = "bicubic"
OURS = METHOD_NAMES[MRDAStudent]
_LABELS = {OURS: "MRDA$_S$"}
_PHOTO_HEIGHT = 3.2  # inches
_LINE = 0.27  # inches of a title
_MOST_IN_A_ROW = 4


@dataclass(frozen=True)
class Detail:
    """A photo under one degradation, restored by several methods.

    Args:
        name: the photo's.
        condition: the degradation.
        scale: between LR and HR.
        hr: the original, (H, W, 3) uint8.
        restored: the results by method, bicubic interpolation first, (H, W, 3) uint8 each.
        psnr: their PSNR-Y over the whole of `hr` but its border, in dB, by method.
        crop: top, left, size of the square shown enlarged, in pixels of `hr`.
        offset: rows above and columns left of `hr` in the file, where `hr` is its centre.
        cropped: True if `hr` is the centre of a larger photo.

    Raises:
        ValueError: pictures of different shapes, or a crop that reaches outside.
    """

    name: str
    condition: Condition
    scale: int
    hr: npt.NDArray[np.uint8]
    restored: Mapping[str, npt.NDArray[np.uint8]]
    psnr: Mapping[str, float]
    crop: tuple[int, int, int]
    offset: tuple[int, int] = (0, 0)
    cropped: bool = False

    def __post_init__(self) -> None:
        for method, picture in self.restored.items():
            if picture.shape != self.hr.shape:
                raise ValueError(
                    f"the SR of {method} has shape {picture.shape}, but must have that of hr, {self.hr.shape}"
                )
        check_crop(self.crop, *self.hr.shape[:2])


def compare_methods(
    methods: Mapping[str, Method],
    photo: FigurePhoto,
    condition: Condition,
    scale: int,
    *,
    crop: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> Detail:
    """Degrade a photo, restore it by bicubic interpolation and by each method, and measure.

    Args:
        methods: the methods by name, in the order of the columns.
        photo: the HR photo.
        condition: the degradation.
        scale: scale of the methods.
        crop: x, y (from the left and the top) and size of the detail, in pixels of the photo's file; None looks for
            the square with the most detail, a quarter of the photo's shorter side wide but at least 48 pixels.
        seed: seed of the noise.

    Raises:
        ValueError: the photo is too small for the blur, the crop reaches outside of it (or of its centre, where that
            is all that is used), or a method makes NaN.
    """
    height, width = photo.image.shape[2:]
    hr = to_array(photo.image)
    if crop is None:
        square = most_detailed_crop(hr, max(48, min(height, width) // 4))
    else:
        x, y, size = crop
        square = (y - photo.top, x - photo.left, size)
        if min(square[:2]) < 0 or size < 1 or square[0] + size > height or square[1] + size > width:
            raise ValueError(
                f"the crop x={x}, y={y}, size={size} must lie inside {photo.name}, of which columns "
                f"{photo.left} to {photo.left + width - 1} and rows {photo.top} to {photo.top + height - 1} are used"
            )
    sample = make_sample(photo.image, condition, scale, image=photo.name, seed=seed)
    restored, psnr = {}, {}
    for name, method in {BICUBIC: lambda one: bicubic(one.lr, scale), **methods}.items():
        sr = method(sample).to(sample.hr)
        psnr[name] = float(psnr_y(sr, sample.hr, scale))
        if math.isnan(psnr[name]):
            raise ValueError(f"the SR of {name} for {photo.name} has NaN values")
        restored[name] = to_array(sr)
    return Detail(
        name=photo.name,
        condition=condition,
        scale=scale,
        hr=hr,
        restored=restored,
        psnr=psnr,
        crop=square,
        offset=(photo.top, photo.left),
        cropped=photo.cropped,
    )


def save_details(details: Sequence[Detail], path: str | Path) -> None:
    """Draw Figs 3-6 and write their numbers beside them: one row per photo and method.

    Each photo has the detail framed and the blur kernel inset in a corner; beside it the detail by each method and of
    HR, in two lines where there are more than four of them.

    Args:
        details: one photo or more, all with the same methods.
        path: the picture, PNG by its suffix; the CSV has its stem.

    Raises:
        ValueError: no photos, or photos with different methods.
        ModuleNotFoundError: matplotlib is missing.
    """
    if not details:
        raise ValueError("details must hold one photo at least")
    if len({tuple(detail.restored) for detail in details}) > 1:
        raise ValueError("details must all have the same methods")
    cells = len(details[0].restored) + 1
    lines = 1 if cells <= _MOST_IN_A_ROW else 2
    columns = math.ceil(cells / lines)
    side = (_PHOTO_HEIGHT - (lines - 1) * _LINE) / lines
    wide = _PHOTO_HEIGHT * max(detail.hr.shape[1] / detail.hr.shape[0] for detail in details)
    wide = min(wide, 1.8 * _PHOTO_HEIGHT)
    figure = new_figure(wide + columns * (side + 0.06), len(details) * (_PHOTO_HEIGHT + 1.5 * _LINE))
    rows = figure.subfigures(len(details), 1, squeeze=False, hspace=0)[:, 0]
    for detail, row in zip(details, rows, strict=True):
        grid = row.add_gridspec(
            lines,
            columns + 1,
            width_ratios=[wide, *[side] * columns],
            wspace=0.04,
            hspace=_LINE / side,
            left=0,
            right=1,
            bottom=_LINE / 4 / (_PHOTO_HEIGHT + 1.5 * _LINE),
            top=1 - 1.25 * _LINE / (_PHOTO_HEIGHT + 1.5 * _LINE),
        )
        _draw_photo(row.add_subplot(grid[:, 0]), detail)
        top, left, size = detail.crop
        pictures = [
            (f"{_LABELS.get(name, plain(shorten(name, 25 if lines == 1 else 13)))}, {detail.psnr[name]:.2f} dB", sr)
            for name, sr in detail.restored.items()
        ]
        for index, (title, picture) in enumerate([*pictures, ("HR", detail.hr)]):
            cell = row.add_subplot(grid[index // columns, 1 + index % columns])
            cell.imshow(picture[top : top + size, left : left + size], interpolation="nearest")
            cell.set_title(title, fontsize=8, pad=3)
            cell.set_axis_off()
    write_csv(csv_beside(path), HEADER, [row for detail in details for row in _numbers(detail)])
    save_figure(figure, path)


def _draw_photo(axes: Axes, detail: Detail) -> None:
    axes.imshow(detail.hr)
    add_frame(axes, detail.crop)
    condition = detail.condition
    noise = f", noise {condition.noise_level:g}" if condition.noise_level else ""
    # Two lines, since a photo may be narrow.
    title = f"{plain(shorten(detail.name))} x{detail.scale}\n{condition.name}{noise}"
    axes.set_title(title, fontsize=8, pad=3)
    axes.set_axis_off()
    axes.set_anchor("E")  # a narrow photo beside a wide one stays next to its details
    if condition.kernel is None:
        return
    top, left, size = detail.crop
    height, width = detail.hr.shape[:2]
    # In the corner away from the frame, a quarter of the photo's shorter side wide.
    side = 0.25 * min(height, width)
    x = 0.0 if left + size / 2 > width / 2 else 1 - side / width
    y = 0.0 if top + size / 2 < height / 2 else 1 - side / height
    inset = axes.inset_axes((x, y, side / width, side / height))
    inset.imshow(condition.kernel.numpy(), cmap="gray", interpolation="nearest")
    inset.set_xticks([])
    inset.set_yticks([])
    inset.spines[:].set_color("white")


def _numbers(detail: Detail) -> list[list[Cell]]:
    height, width = detail.hr.shape[:2]
    top, left, size = detail.crop
    above, before = detail.offset
    return [
        [
            *(detail.name, detail.condition.name, detail.condition.noise_level, detail.scale, width, height),
            *(str(detail.cropped).lower(), left + before, top + above, size, method, detail.psnr[method]),
        ]
        for method in detail.restored
    ]
