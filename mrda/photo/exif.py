# SPDX-License-Identifier: Apache-2.0
"""EXIF blocks, changed where the enlarged photo makes them false and otherwise kept to the byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mrda.photo.ifd import LONG, SHORT, Directory, IFDError, TagFile

PREFIX = b"Exif\0\0"
"""Begins an EXIF block in a JPEG."""
ORIENTATION = 0x0112
"""Number of the tag."""
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
_MAKER_NOTE = 0x927C
_WIDTHS = {0: 0x0100, EXIF_IFD: 0xA002, INTEROP_IFD: 0x1001}  # by directory; the height's tag is the next
# Tags of a TIFF's first directory that describe the photo, not its storage: titles, camera, software, date, people.
_DESCRIPTIVE = frozenset(
    {0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298,
     0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}
)  # fmt: skip
# Descriptions by which programs find their pixels, which are others now.
_LAYOUTS = (b'{"shape"', b"ImageJ=", b"<?xml", b"<OME")
_CLASSIC = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 129})  # types that BigTIFF did not add
_LARGEST_BLOCK = 2**24  # bytes of all tags together
_LARGEST_VALUE = 2**20  # bytes of a tag that is copied from a TIFF


def upright(block: bytes) -> bytes:
    """Set the orientation to 1 and unlink the thumbnail, which is not enlarged.

    Args:
        block: an EXIF block, beginning with its byte order.

    Returns:
        A block of the same length and with the same bytes elsewhere.

    Raises:
        IFDError: the block is damaged.
    """
    tags, patched = TagFile(block), bytearray(block)
    if tags.big:
        raise IFDError("it is a BigTIFF")
    first = tags.directory(tags.first)
    list(_sub_directories(tags, first))
    for entry in first.entries:
        if entry.tag == ORIENTATION:
            _set(patched, tags.order, entry.place, SHORT, 1)
    patched[first.next_place : first.next_place + 4] = bytes(4)[: len(block) - first.next_place]
    return bytes(patched)


def sized(block: bytes, width: int, height: int) -> bytes:
    """Set the tags of the photo's size in pixels, where there are any; see `upright`."""
    tags, patched = TagFile(block), bytearray(block)
    first = tags.directory(tags.first)
    for number, directory in [(0, first), *_sub_directories(tags, first)]:
        for entry in directory.entries:
            if number in _WIDTHS and 0 <= entry.tag - _WIDTHS[number] <= 1:
                value = (width, height)[entry.tag - _WIDTHS[number]]
                short = entry.type == SHORT and value < 2**16
                _set(patched, tags.order, entry.place, SHORT if short else LONG, value)
    return bytes(patched)


def is_orientation_only(block: bytes) -> bool:
    """Check whether a block has nothing but the orientation, of which nothing is left when the photo is upright."""
    tags = TagFile(block)
    return all(entry.tag == ORIENTATION for entry in tags.directory(tags.first).entries)


def orientation(block: bytes) -> int | None:
    """Look up the orientation in a block; None if there is none."""
    tags = TagFile(block)
    entry = tags.directory(tags.first).get(ORIENTATION)
    return None if entry is None else next(iter(tags.integers(entry)), None)


def first_tags(block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield numbers and bytes of the entries of a block's first directory."""
    tags = TagFile(block)
    for entry in tags.directory(tags.first).entries:
        yield entry.tag, tags.read(entry.place, 12)


def _set(block: bytearray, order: str, place: int, type: int, value: int) -> None:
    form = "HH" if type == SHORT else "I"
    struct.pack_into(order + "HI" + form, block, place + 2, type, 1, value, *([0] if type == SHORT else []))


def _sub_directories(tags: TagFile, first: Directory) -> Iterator[tuple[int, Directory]]:
    """Yield the directories of EXIF and interoperability; their parents point to them."""
    for number in (EXIF_IFD, INTEROP_IFD):
        offset = tags.integer(first, number)
        if not offset:
            return
        first = tags.directory(offset)
        yield number, first


class _Value(NamedTuple):
    """A tag to copy: its number, type, number of values, and their bytes."""

    tag: int
    type: int
    number: int
    content: bytes


def from_tiff(file: BinaryIO, offset: int) -> tuple[bytes | None, bool]:
    """Make an EXIF block of the tags of a TIFF that describe the photo; all values keep their bytes.

    The maker note keeps its offset too, if that is possible, because some cameras' notes point into themselves by
    offsets in the file.

    Args:
        file: the TIFF.
        offset: the offset of its directory.

    Returns:
        The block, None if there are no such tags; and True if the maker note had to be moved.

    Raises:
        IFDError: a directory is damaged.
    """
    tags = TagFile(file)
    first = tags.directory(offset)
    values = {0: [value for value in _values(tags, first) if value.tag in _DESCRIPTIVE and not _is_layout(value)]}
    note: tuple[int, int] | None = None
    for number in (EXIF_IFD, GPS_IFD):
        if place := tags.integer(first, number):
            directory = tags.directory(place)
            values[number] = [value for value in _values(tags, directory) if value.tag != INTEROP_IFD]
            if number == EXIF_IFD and (entry := directory.get(_MAKER_NOTE)) is not None and entry.size > 4:
                note = entry.offset, entry.size
            if number == EXIF_IFD and (place := tags.integer(directory, INTEROP_IFD)):
                values[INTEROP_IFD] = list(_values(tags, tags.directory(place)))
    if not any(values.values()):
        return None, False
    block = _packed(values, tags.order, note)
    if block is not None:
        return block, False
    return _packed(values, tags.order, None), note is not None


def _values(tags: TagFile, directory: Directory) -> Iterator[_Value]:
    total = 0
    for entry in directory.entries:
        if entry.type in _CLASSIC and entry.size <= _LARGEST_VALUE:
            total += entry.size
            if total > _LARGEST_BLOCK:
                raise IFDError("its values are too large together")
            yield _Value(entry.tag, entry.type, entry.number, tags.content(entry))


def _is_layout(value: _Value) -> bool:
    return value.tag == 0x010E and value.content.startswith(_LAYOUTS)


def _packed(values: dict[int, list[_Value]], order: str, note: tuple[int, int] | None) -> bytes | None:
    """Pack directories and their values behind a header, around the place of the maker note if it has one.

    Returns None if the maker note's place is far behind, or where the header must be.
    """
    pointers = {EXIF_IFD: 0, GPS_IFD: 0, INTEROP_IFD: EXIF_IFD}
    places: dict[int, int] = {}
    end = 8

    def allocate(size: int) -> int:
        nonlocal end
        start = end + end % 2
        if note is not None and start < note[0] + note[1] and start + size > note[0]:
            start = note[0] + note[1]
            start += start % 2
        end = start + size
        return start

    for number, entries in values.items():
        children = sum(child in values and parent == number for child, parent in pointers.items())
        places[number] = allocate(2 + 12 * (len(entries) + children) + 4)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", places[0])
    pieces: list[tuple[int, bytes]] = [(0, header)]
    for number, entries in values.items():
        further = [
            _Value(child, LONG, 1, struct.pack(order + "I", places[child]))
            for child, parent in pointers.items()
            if parent == number and child in values
        ]
        content = bytearray(struct.pack(order + "H", len(entries) + len(further)))
        for value in sorted([*entries, *further], key=lambda value: value.tag):
            content += struct.pack(order + "HHI", value.tag, value.type, value.number)
            if len(value.content) <= 4:
                content += value.content.ljust(4, b"\0")
                continue
            kept = note is not None and number == EXIF_IFD and value.tag == _MAKER_NOTE
            place = note[0] if kept and note is not None else allocate(len(value.content))
            pieces.append((place, value.content))
            content += struct.pack(order + "I", place)
        pieces.append((places[number], bytes(content + bytes(4))))
    if note is not None and (note[0] < 8 or note[0] > end + 2**15):
        return None
    block = bytearray(max(start + len(content) for start, content in pieces))
    for start, piece in pieces:
        block[start : start + len(piece)] = piece
    return bytes(block)
