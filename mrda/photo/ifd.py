# SPDX-License-Identifier: Apache-2.0
"""Directories of tags (IFDs), of which TIFF files and EXIF blocks consist; every read is checked against the end."""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8, 129: 1}
"""Bytes of one value, by its type."""
SHORT, LONG = 3, 4
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_HEADERS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
MAGICS = tuple(_HEADERS)
"""First four bytes of TIFF files and EXIF blocks."""
XMP, IPTC, PHOTOSHOP, ICC = 700, 33723, 34377, 34675
"""Numbers of a TIFF's tags that hold blocks of other metadata."""
_MOST_VALUES = 2**16  # of integers that are looked at


class IFDError(ValueError):
    """A directory is damaged."""


class Entry(NamedTuple):
    """An entry of a directory.

    Attributes:
        tag: the number of the tag.
        type: the type of the values, a key of `SIZES` unless it is unknown.
        number: number of values.
        place: offset of the entry itself.
        offset: offset of the values.
        size: their size in bytes; 0 if the type is unknown.
    """

    tag: int
    type: int
    number: int
    place: int
    offset: int
    size: int


class Directory(NamedTuple):
    """A directory: its entries, the offset of the pointer to the next directory, and that pointer."""

    entries: tuple[Entry, ...]
    next_place: int
    next: int

    def get(self, tag: int) -> Entry | None:
        """Return the first entry of a tag."""
        return next((entry for entry in self.entries if entry.tag == tag), None)


class TagFile:
    """Reads a TIFF file, or an EXIF block, whose structure is the same.

    Args:
        data: the block, or a file that can be sought.

    Attributes:
        order: byte order as in `struct`, "<" or ">".
        big: True for BigTIFF.
        first: offset of the first directory.

    Raises:
        IFDError: it does not begin as a TIFF.
    """

    def __init__(self, data: bytes | BinaryIO) -> None:
        self._data = data
        try:
            self.order, self.big = _HEADERS[self.read(0, 4)]
        except KeyError:
            raise IFDError("it does not begin with a byte order") from None
        (self.first,) = self.unpack("Q" if self.big else "I", 8 if self.big else 4)

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes; raises IFDError if the file ends before."""
        if isinstance(self._data, bytes):
            content = self._data[offset : offset + size]
        else:
            self._data.seek(min(offset, 2**62))
            content = self._data.read(size)
        if len(content) != size:
            raise IFDError("it ends too early")
        return content

    def unpack(self, form: str, offset: int) -> tuple[int, ...]:
        """Read numbers in the file's byte order."""
        return struct.unpack(self.order + form, self.read(offset, struct.calcsize("=" + form)))

    def directory(self, offset: int) -> Directory:
        """Read a directory; raises IFDError if it does not lie in the file."""
        (count,) = self.unpack("Q" if self.big else "H", offset)
        start, form, inline = (offset + 8, "HHQ", 8) if self.big else (offset + 2, "HHI", 4)
        length = 12 + 8 * self.big
        if count > 2**16:
            raise IFDError(f"a directory has {count} entries")
        content = self.read(start, count * length)
        entries = []
        for number in range(count):
            tag, type, values = struct.unpack_from(self.order + form, content, number * length)
            place = start + number * length
            size = SIZES.get(type, 0) * values
            value = place + length - inline
            if size > inline:
                pointer = content[(number + 1) * length - inline : (number + 1) * length]
                value = int.from_bytes(pointer, "little" if self.order == "<" else "big")
            entries.append(Entry(tag, type, values, place, value, size))
        after = start + count * length
        try:
            (following,) = self.unpack("Q" if self.big else "I", after)
        except IFDError:  # the last bytes of some blocks are missing
            following = 0
        return Directory(tuple(entries), after, following)

    def integers(self, entry: Entry | None, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Read the values of an entry of unsigned integers; ``default`` if there is none.

        Raises:
            IFDError: they are of another type, too many, or beyond the end.
        """
        if entry is None:
            return default
        if entry.type not in _INTEGERS or entry.number > _MOST_VALUES:
            raise IFDError(f"tag {entry.tag} is of type {entry.type} with {entry.number} values")
        return self.unpack(f"{entry.number}{_INTEGERS[entry.type]}", entry.offset)

    def integer(self, directory: Directory, tag: int, default: int = 0) -> int:
        """Read the first value of a tag of unsigned integers; ``default`` if there is none."""
        return next(iter(self.integers(directory.get(tag))), default)

    def content(self, entry: Entry) -> bytes:
        """Read the bytes of an entry's values."""
        return self.read(entry.offset, entry.size)
