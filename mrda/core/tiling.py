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


def tiles(rows: slice, height: int, width: int, side: int, pad: int) -> Iterator[Tile]:
    """Cut a band of an image into tiles of about the same width, from left to right.

    A convolutional network whose receptive field reaches ``pad`` pixels far gives in the middle of such a tile what it
    gives there on the whole image: where a tile ends at the image's border, it is padded as the image is.

    Args:
        rows: the band.
        height: of the image, in LR pixels.
        width: of the image.
        side: largest width that a tile contributes.
        pad: pixels that it sees around what it contributes.
    """
    count = -(-width // side)
    for number in range(count):
        columns = slice(width * number // count, width * (number + 1) // count)
        yield Tile(rows, columns, _padded(rows, height, pad), _padded(columns, width, pad))


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


def _padded(cut: slice, length: int, pad: int) -> slice:
    return slice(max(0, cut.start - pad), min(length, cut.stop + pad))
