# SPDX-License-Identifier: Apache-2.0
"""Writes TIFF files strip by strip, with the whole EXIF block of the photo to the byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from mrda.photo.exif import first_tags
from mrda.photo.ifd import ICC, IPTC, LONG, PHOTOSHOP, SHORT, SIZES, XMP
from mrda.photo.row_writer import RowWriter

STRIP_ROWS = 64
_BYTE, _RATIONAL, _UNDEFINED, _LONG8 = 1, 5, 7, 16
# Tags of storage and layout, which an EXIF block may have and which are those of the block's own photo.
_STORAGE = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292,
     301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 512, 513, 514, 519, 520, 521,
     529, 530, 531, 532, XMP, IPTC, PHOTOSHOP, ICC}
)  # fmt: skip
_RAW = range(50706, 52600)  # by DNG's tags, programs would take the file for a raw one
_RESOLUTION = (282, 283, 296)
_MOST = 15 * 2**28
"""Bytes of pixels from which BigTIFF is needed."""


class TIFFWriter(RowWriter):
    """Writes the rows of one image as they arrive, as deflated strips.

    The file begins with the EXIF block, so that all offsets in the block are right in the file too, those inside of
    maker notes among them; the image's own directory follows the strips, and points to the block's directories.

    Args:
        file: an open file that can be sought, at its beginning; it is not closed.
        width: width in pixels.
        height: height in pixels.
        channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
        dtype: uint8 or uint16.
        icc: an ICC profile.
        exif: an EXIF block, beginning with its byte order.
        xmp: an XMP packet.
        dpi: pixels per inch, horizontally and vertically.
        photoshop: Photoshop's image resources.
        iptc: the IPTC data.

    Attributes:
        keeps_exif: False if the file is too large for the block, which is left out.
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
        photoshop: bytes | None = None,
        iptc: bytes | None = None,
    ) -> None:
        dtype = np.dtype(dtype)
        super().__init__(height)
        self.file, self.width, self.channels = file, width, channels
        self._big = needs_big(width, height, channels, dtype)
        self.keeps_exif = not self._big
        self._exif = None if self._big else exif
        self._order: Literal["<", ">"] = ">" if self._exif is not None and self._exif.startswith(b"MM") else "<"
        self._dtype = dtype.newbyteorder(self._order)
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._held = np.empty((0, width, channels), dtype)
        self._blocks = [
            (XMP, _BYTE, xmp),
            (IPTC, _UNDEFINED, iptc),
            (PHOTOSHOP, _BYTE, photoshop),
            (ICC, _UNDEFINED, icc),
        ]
        self._dpi = dpi
        self._place = 0
        if self._exif is not None:
            self._put(self._exif)
        else:
            self._put(b"II+\0\x08\0\0\0" + bytes(8) if self._big else b"II*\0" + bytes(4))

    def _write(self, rows: npt.NDArray[np.generic]) -> None:
        rows = rows.reshape(-1, self.width, self.channels)
        self._held = np.concatenate([self._held, rows]) if len(self._held) else rows
        while len(self._held) >= STRIP_ROWS:
            self._strip(self._held[:STRIP_ROWS])
            self._held = self._held[STRIP_ROWS:]

    def _finish(self) -> None:
        if len(self._held):
            self._strip(self._held)
        self._directory()

    def _strip(self, rows: npt.NDArray[np.generic]) -> None:
        differences = rows.astype(self._dtype)
        differences[:, 1:] -= rows[:, :-1]
        content = zlib.compress(differences.tobytes())
        self._offsets.append(self._put(content))
        self._sizes.append(len(content))

    def _put(self, content: bytes) -> int:
        """Write bytes at an even offset, and return it."""
        if self._place % 2:
            self.file.write(b"\0")
            self._place += 1
        place = self._place
        self.file.write(content)
        self._place += len(content)
        return place

    def _directory(self) -> None:
        bits, alpha = 8 * self._dtype.itemsize, self.channels in (2, 4)
        offsets = _LONG8 if self._big else LONG
        entries: dict[int, bytes] = {}
        for tag, entry in first_tags(self._exif) if self._exif is not None else ():
            if tag not in _STORAGE and tag not in _RAW and not (self._dpi is not None and tag in _RESOLUTION):
                entries[tag] = entry
        for tag, type, values in (
            (256, LONG, [self.width]),
            (257, LONG, [self.height]),
            (258, SHORT, [bits] * self.channels),
            (259, SHORT, [8]),  # deflate
            (262, SHORT, [2 if self.channels > 2 else 1]),
            (273, offsets, self._offsets),
            (277, SHORT, [self.channels]),
            (278, LONG, [STRIP_ROWS]),
            (279, offsets, self._sizes),
            (284, SHORT, [1]),
            (317, SHORT, [2]),  # differences along the rows
        ):
            entries[tag] = self._entry(tag, type, values)
        if alpha:
            entries[338] = self._entry(338, SHORT, [2])  # not premultiplied
        if self._dpi is not None:
            for tag, value in zip(_RESOLUTION, self._dpi, strict=False):
                fraction = Fraction(value).limit_denominator(1000)
                entries[tag] = self._entry(tag, _RATIONAL, [fraction.numerator, fraction.denominator])
            entries[296] = self._entry(296, SHORT, [2])  # per inch
        for tag, type, content in self._blocks:
            if content:
                entries[tag] = self._entry(tag, type, content)
        listed = b"".join(entries[tag] for tag in sorted(entries))
        count = struct.pack(self._order + ("Q" if self._big else "H"), len(entries))
        place = self._put(count + listed + bytes(8 if self._big else 4))
        self.file.seek(8 if self._big else 4)
        self.file.write(struct.pack(self._order + ("Q" if self._big else "I"), place))
        self.file.seek(0, 2)

    def _entry(self, tag: int, type: int, values: Sequence[int]) -> bytes:
        """Return a directory's entry; values that it can't hold are written before it."""
        form = {_BYTE: "B", _UNDEFINED: "B", SHORT: "H", LONG: "I", _RATIONAL: "I", _LONG8: "Q"}[type]
        content = bytes(values) if form == "B" else struct.pack(f"{self._order}{len(values)}{form}", *values)
        inline, pointer = (8, "Q") if self._big else (4, "I")
        count = len(content) // SIZES[type]
        if len(content) > inline:
            content = struct.pack(self._order + pointer, self._put(content))
        return struct.pack(self._order + "HH" + pointer, tag, type, count) + content.ljust(inline, b"\0")


def needs_big(width: int, height: int, channels: int, dtype: npt.DTypeLike) -> bool:
    """Check whether an image is too large for a TIFF with offsets of 32 bits, so that it becomes a BigTIFF."""
    return width * height * channels * np.dtype(dtype).itemsize > _MOST
