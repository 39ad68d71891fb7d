"""Large images by tiles, with the very result of the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Tile(NamedTuple):
    """A part of an image, in LR pixels.

    Attributes:
        rows: what it contributes.
        columns: what it contributes.
        seen_rows: what it is computed from: that, and the pad around it, as far as the image goes.
        seen_columns: likewise.
    """

    rows: slice
    columns: slice
    seen_rows: slice
    seen_columns: slice


def tiles(height: int, width: int, side: int, pad: int) -> Iterator[Tile]:
    """Cut an image into tiles of about the same size, row by row.

    A convolutional network whose receptive field reaches ``pad`` pixels far gives in the middle of such a tile what it
    gives there on the whole image: where a tile ends at the image's border, it is padded as the image is.

    Args:
        height: of the image, in LR pixels.
        width: of the image.
        side: largest height and width that a tile contributes.
        pad: pixels that it sees around that.
    """
    for rows, seen_rows in _cut(height, side, pad):
        for columns, seen_columns in _cut(width, side, pad):
            yield Tile(rows, columns, seen_rows, seen_columns)


def strips(height: int, side: int, overlap: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Cut rows into strips, each with what it contributes and what it is computed from.

    Both start at multiples of ``step`` and end there or at the image's end, so that a network with a total stride of
    ``step`` sees the grid that it sees in the whole image.

    Args:
        height: rows of the image.
        side: rows that a strip contributes; rounded up to a multiple of ``step``.
        overlap: rows that it sees beyond those, at least; a multiple of ``step``.
        step: the network's total stride.
    """
    side = -(-side // step) * step
    for start in range(0, height, side):
        end = min(height, start + side)
        yield slice(start, end), slice(max(0, start - overlap), min(height, end + overlap))


def _cut(length: int, side: int, pad: int) -> Iterator[tuple[slice, slice]]:
    count = -(-length // side)
    for number in range(count):
        start, end = length * number // count, length * (number + 1) // count
        yield slice(start, end), slice(max(0, start - pad), min(length, end + pad))
