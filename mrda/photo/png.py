# SPDX-License-Identifier: Apache-2.0
"""Writes PNG files row by row, with 8 or 16 bits per channel; Pillow can do neither."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mrda.photo.png_reader import COLOUR, SIGNATURE
from mrda.photo.row_writer import RowWriter

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels
_UP = 2  # the filter of all rows: the difference from the byte above, which is cheap and suits photographs
_LEVEL = 6


class PNGWriter(RowWriter):
    """Writes the rows of one image as they arrive.

    Args:
        file: an open file; it is not closed.
        width: width in pixels.
        height: height in pixels.
        channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
        dtype: uint8 or uint16.
        icc: an ICC profile.
        exif: an EXIF block, beginning with its byte order.
        xmp: an XMP packet.
        dpi: pixels per inch, horizontally and vertically.
        chunks: names and contents of further chunks, which are written before the pixels.

    Raises:
        ValueError: channels or dtype are not supported.
    """

    def __init__(
        self,
        file: BinaryIO,
        width: int,
        height: int,
        channels: int,
        dtype: npt.DTypeLike,
        *,
        icc: bytes | None = None,
        exif: bytes | None = None,
        xmp: bytes | None = None,
        dpi: tuple[float, float] | None = None,
        chunks: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        dtype = np.dtype(dtype)
        if channels not in _COLOUR_TYPES or dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"an image with {channels} channels of {dtype} can't be a PNG, which has 1 to 4 of uint8 or uint16"
            )
        super().__init__(height)
        self.file = file
        self._shape, self._dtype = (width, channels), dtype
        self._above = np.zeros(width * channels * dtype.itemsize, np.uint8)
        self._deflate = zlib.compressobj(_LEVEL)
        file.write(SIGNATURE)
        self._chunk(
            b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, _COLOUR_TYPES[channels], 0, 0, 0)
        )
        chunks = list(chunks)
        for name, content in chunks:
            if name in COLOUR and not (icc and name == b"sRGB"):
                self._chunk(name, content)
        if icc:
            self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
        if dpi:
            per_metre = (max(1, round(value / 0.0254)) for value in dpi)
            self._chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
        if exif:
            self._chunk(b"eXIf", exif)
        if xmp:
            self._chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        for name, content in chunks:
            if name not in COLOUR:
                self._chunk(name, content)

    def _write(self, rows: npt.NDArray[np.generic]) -> None:
        rows = rows.reshape(-1, *self._shape).astype(self._dtype.newbyteorder(">"), copy=False)
        lines = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
        filtered = np.empty((len(lines), 1 + lines.shape[1]), np.uint8)
        filtered[:, 0] = _UP
        filtered[:1, 1:] = lines[:1] - self._above
        filtered[1:, 1:] = lines[1:] - lines[:-1]
        self._above = lines[-1]
        self._data(self._deflate.compress(filtered.tobytes()))

    def _finish(self) -> None:
        self._data(self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _data(self, data: bytes) -> None:
        if data:
            self._chunk(b"IDAT", data)

    def _chunk(self, name: bytes, content: bytes) -> None:
        self.file.write(struct.pack(">I", len(content)) + name + content)
        self.file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))
