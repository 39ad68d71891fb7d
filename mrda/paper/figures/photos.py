# SPDX-License-Identifier: Apache-2.0
"""The photographs of a figure: read, limited in size by a centre crop, of whole multiples of the scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mrda.core.checks import check_int
from mrda.evaluation.samples import Condition
from mrda.photo.images import ImageError, Source, read_rgb, read_size, source_name, to_tensor

LARGEST_SIDE = 1024
"""Default limit of a photo's sides in HR pixels: published sizes then need 1 GiB for MRDA_S, 2 GiB to adapt an MLN."""


class FigurePhoto(NamedTuple):
    """A photograph, or its centre."""

    name: str
    image: Tensor
    """(1, 3, H, W) in [0, 1]."""
    top: int
    """Rows of the file above `image`."""
    left: int
    """Columns of the file left of `image`."""
    size: tuple[int, int]
    """Height and width in the file."""
    cropped: bool
    """True if the photo was too large and `image` is its centre."""


def read_centre(source: Source, *, multiple: int = 1, largest: int = LARGEST_SIDE) -> FigurePhoto:
    """Read a photograph; of one that is too large, the centre.

    Args:
        source: see `mrda.photo.images.read_image`.
        multiple: height and width are cropped to multiples of it, at the bottom and the right.
        largest: largest height and width; the rest is cut off evenly on both sides.

    Raises:
        ImageError: it can't be read, or is smaller than `multiple`.
        ValueError: `largest` is less than `multiple`.
    """
    check_int("largest", largest, minimum=multiple)
    image = to_tensor(read_rgb(source))
    height, width = image.shape[2:]
    if min(height, width) < multiple:
        raise ImageError(f"{source} is {width} x {height} pixels, but must be at least {multiple} x {multiple}")
    (top, rows), (left, columns) = (_centre(side, multiple, largest) for side in (height, width))
    centre = image[..., top : top + rows, left : left + columns]
    return FigurePhoto(source_name(source), centre, top, left, (height, width), max(height, width) > largest)


def check_photos(sources: Sequence[Source], *, smallest: int = 1, largest: int = LARGEST_SIDE) -> list[str]:
    """Look at the photos' sizes, before any work.

    Args:
        sources: the photos.
        smallest: see `smallest_side`.
        largest: see `read_centre`.

    Returns:
        A sentence for each photo of which only the centre is used.

    Raises:
        ImageError: a photo is missing, no image, or of fewer pixels per side than `smallest`.
        ValueError: two photos have one name.
    """
    names: dict[str, Source] = {}
    remarks = []
    for source in sources:
        width, height = read_size(source)
        if min(width, height) < smallest:
            raise ImageError(f"{source} is {width} x {height} pixels, but must be at least {smallest} x {smallest}")
        name = source_name(source)
        if name in names:
            raise ValueError(f"{names[name]} and {source} are both named {name}, and would mix in the table")
        names[name] = source
        if max(width, height) > largest:
            used = f"{min(width, largest)} x {min(height, largest)}"
            remarks.append(f"{source} is {width} x {height} pixels, of which the central {used} are used")
    return remarks


def smallest_side(conditions: Sequence[Condition], scale: int) -> int:
    """The fewest HR pixels per side that can be degraded in these ways and leave something to measure."""
    needed = 2 * scale + 1
    for condition in conditions:
        if condition.kernel is not None:
            needed = max(needed, condition.kernel.shape[-1] // 2 + 1)
    return needed + -needed % scale


def _centre(side: int, multiple: int, largest: int) -> tuple[int, int]:
    """Start and length of the centre along one side; a side that fits starts at 0, as in all protocols."""
    if side <= largest:
        return 0, side - side % multiple
    length = largest - largest % multiple
    return (side - length) // 2, length
