# SPDX-License-Identifier: Apache-2.0
"""Tiles and strips of large images, chosen so that the result is that of the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Tile(NamedTuple):
    """A part of an image, in LR pixels.

    Attributes:
        rows: rows of the result.
        columns: columns of the result.
        seen_rows: rows that the result is computed from: `rows` and the pad around them, within the image.
        seen_columns: columns that the result is computed from, likewise.
    """

    rows: slice
    columns: slice
    seen_rows: slice
    seen_columns: slice


def tiles(rows: slice, height: int, width: int, side: int, pad: int) -> Iterator[Tile]:
    """Split a band of rows of an image into tiles of about the same width, from left to right.

    If the receptive field of a convolutional network reaches at most ``pad`` pixels, its result in the middle of a tile
    is that on the whole image: a tile that ends at the image's border is padded as the image is.

    Args:
        rows: the band.
        height: height of the image, in LR pixels.
        width: width of the image.
        side: maximum width of a tile's result.
        pad: width of the border that a tile sees around its result.
    """
    count = -(-width // side)
    for number in range(count):
        columns = slice(width * number // count, width * (number + 1) // count)
        yield Tile(rows, columns, _padded(rows, height, pad), _padded(columns, width, pad))


def strips(height: int, side: int, overlap: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Split rows into strips; yield the rows of each strip's result, and the rows that it is computed from.

    Both start at multiples of ``step``, and end there or at the image's end, so that a network with a total stride of
    ``step`` samples the same grid as in the whole image.

    Args:
        height: rows of the image.
        side: rows of a strip's result; rounded up to a multiple of ``step``.
        overlap: rows that a strip sees above and below its result; a multiple of ``step``.
        step: total stride of the network.
    """
    side = -(-side // step) * step
    for start in range(0, height, side):
        end = min(height, start + side)
        yield slice(start, end), slice(max(0, start - overlap), min(height, end + overlap))


def _padded(cut: slice, length: int, pad: int) -> slice:
    return slice(max(0, cut.start - pad), min(length, cut.stop + pad))
