# SPDX-License-Identifier: Apache-2.0
"""Draws the steps of a degradation: one picture with a caption for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mrda.degradations.classic import ClassicDegradation, degrade
from mrda.degradations.filters import filter_images
from mrda.degradations.real import Step
from mrda.photo.crops import most_detailed_crop
from mrda.photo.images import to_array

DETAIL = 256
"""Largest side of the square that is shown, in HR pixels."""

_PANEL = 256  # pixels
_GAP = 10
_FONT_SIZE = 14
_LINES = 2  # of a caption
_LINE_HEIGHT = 18
_COLUMNS = 4
_TAP = 3  # pixels of the picture for each of a kernel
_WHITE, _INK, _FRAME = "white", "#202020", "#ffd400"


def classic_steps(degradation: ClassicDegradation, hr: Tensor, generator: torch.Generator) -> Iterator[Step]:
    """Yield blur, downsampling and noise, if the degradation has them; the last image is LR.

    Args:
        degradation: Draws the parameters, once for all steps.
        hr: (1, 3, H, W) in [0, 1].
        generator: Source of the random numbers, on the device of ``hr``.

    Raises:
        TypeError: As the degradation.
        ValueError: As the degradation.
    """
    degraded = degradation(hr, generator)
    lr, kernel, level = degraded.lr, degraded.kernel, degraded.noise_level
    assert level is not None  # it was Gaussian
    yield Step("HR", hr, None)
    if kernel is not None:
        yield Step(f"Blur: {kernel.shape[-1]}x{kernel.shape[-1]} kernel", filter_images(hr, kernel), kernel)
    options = degradation.options
    how = "bicubic" if options.downsample == "bicubic" else f"one pixel of {degradation.scale}x{degradation.scale}"
    size = f"{lr.shape[3]}x{lr.shape[2]}"
    if level.any():
        clean = degrade(hr, kernel, degradation.scale, downsample=options.downsample, border=options.border)
        yield Step(f"Downsample to {size}, {how}", clean.lr, None)
        yield Step(f"Gaussian noise, sigma {level.item():.1f}, and 8 bits: LR", lr, None)
    else:
        yield Step(f"Downsample to {size}, {how}, and 8 bits: LR", lr, None)


def draw_steps(steps: Sequence[Step]) -> Image.Image:
    """Draw the whole first image with a frame in it, and the part inside the frame after each step.

    The frame is where the first image has the most detail. Pixels are enlarged as squares. A kernel is drawn in a
    corner of its step's image, from black (its minimum) to white (its maximum).

    Args:
        steps: One or more, of one photo.

    Raises:
        ValueError: No steps.
    """
    if not steps:
        raise ValueError("steps is empty, but must have at least one step")
    hr = to_array(steps[0].image)
    top, left, size = most_detailed_crop(hr, DETAIL)
    field = tuple(
        float(edge) for edge in (left / hr.shape[1], top / hr.shape[0], size / hr.shape[1], size / hr.shape[0])
    )
    panels = [(f"The photo, {hr.shape[1]}x{hr.shape[0]}", _whole(Image.fromarray(hr), (left, top, size)))]
    for step in steps:
        panel = _detail(Image.fromarray(to_array(step.image)), field)
        if step.kernel is not None:
            _add_kernel(panel, step.kernel[0])
        panels.append((step.caption, panel))
    return _grid(panels)


def _detail(image: Image.Image, field: Sequence[float]) -> Image.Image:
    """Enlarge a field (left, top, width, height, each as a share of the image's side) to a panel."""
    left, top, width, height = (share * side for share, side in zip(field, image.size * 2, strict=True))
    # Rounding may put the sums slightly outside.
    right, bottom = min(image.width, left + width), min(image.height, top + height)
    return image.resize((_PANEL, _PANEL), Image.Resampling.BOX, box=(left, top, right, bottom))


def _whole(image: Image.Image, square: tuple[int, int, int]) -> Image.Image:
    """Fit an image into a panel, and frame a square (left, top, size)."""
    ratio = _PANEL / max(image.size)
    size = tuple(max(1, round(side * ratio)) for side in image.size)
    small = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    left, top, side = (round(edge * ratio) for edge in square)
    draw = ImageDraw.Draw(small)
    draw.rectangle((left, top, left + side - 1, top + side - 1), outline=_FRAME, width=2)
    panel = Image.new("RGB", (_PANEL, _PANEL), _WHITE)
    panel.paste(small, ((_PANEL - small.width) // 2, (_PANEL - small.height) // 2))
    return panel


def _add_kernel(panel: Image.Image, kernel: Tensor) -> None:
    """Paste a kernel into the lower right corner, with a frame around it."""
    values = kernel.double().cpu().numpy()
    span = float(np.ptp(values)) or 1.0
    levels = np.rint(255 * (values - values.min()) / span).astype(np.uint8)
    side = min(_TAP * len(levels), _PANEL // 2)
    corner = _PANEL - side - 1
    ImageDraw.Draw(panel).rectangle((corner - 1, corner - 1, _PANEL - 1, _PANEL - 1), outline=_FRAME)
    panel.paste(Image.fromarray(levels).resize((side, side), Image.Resampling.NEAREST), (corner, corner))


def _grid(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Arrange panels in rows, each below its caption."""
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    across, down = _PANEL + _GAP, _LINES * _LINE_HEIGHT + _PANEL + _GAP
    picture = Image.new("RGB", (columns * across + _GAP, rows * down + _GAP), _WHITE)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT_SIZE)
    for index, (caption, panel) in enumerate(panels):
        x, y = _GAP + index % columns * across, _GAP + index // columns * down
        lines = _wrap(caption.split(), lambda text: draw.textlength(text, font))[:_LINES]
        y += _LINES * _LINE_HEIGHT
        for line, text in enumerate(reversed(lines), 1):
            draw.text((x, y - line * _LINE_HEIGHT), text, fill=_INK, font=font)
        picture.paste(panel, (x, y))
    return picture


def _wrap(words: Sequence[str], length: Callable[[str], float]) -> list[str]:
    """Break words into lines that fit into a panel's width."""
    lines = [words[0]]
    for word in words[1:]:
        longer = f"{lines[-1]} {word}"
        if length(longer) <= _PANEL:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
