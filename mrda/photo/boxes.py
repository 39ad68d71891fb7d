# SPDX-License-Identifier: Apache-2.0
"""Boxes, of which JPEG 2000, AVIF and HEIC files consist, and what they say of bits and colours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

SRGB, GRAY = 16, 17
"""Numbers of JPEG 2000's colour spaces."""
_SIZ = b"\xff\x4f\xff\x51"
_UNSPECIFIED = 2
_LIKE_SRGB = ((1, 13), (1, 1), (1, 6))  # primaries of BT.709, with transfer curves that programs treat as sRGB


class Jpeg2000(NamedTuple):
    """Header of a JPEG 2000: channels, bits per channel, and the number of its colour space if it has one."""

    channels: int
    bits: int
    signed: bool
    subsampled: bool
    colours: int | None


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, start and end of the content of each box, as far as they are intact."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        elif size == 0:
            size = end - start
        if size < head or start + size > end:
            return
        yield kind, start + head, start + size
        start += size


def jpeg2000_header(data: bytes) -> Jpeg2000 | None:
    """Read the header of a JPEG 2000 file or codestream; None if it is damaged or its channels differ in bits."""
    colours = None
    place = 0 if data.startswith(_SIZ) else -1
    for kind, start, end in boxes(data) if place else ():
        if kind == b"jp2h":
            for inner, first, last in boxes(data, start, end):
                if inner == b"colr" and last - first >= 7 and data[first] == 1 and colours is None:
                    (colours,) = struct.unpack_from(">I", data, first + 3)
                if inner == b"pclr":
                    return None  # a palette
        elif kind == b"jp2c":
            place = start
            break
    if place < 0 or data[place : place + 4] != _SIZ or place + 42 > len(data):
        return None
    (channels,) = struct.unpack_from(">H", data, place + 40)
    parts = data[place + 42 : place + 42 + 3 * channels]
    if len(parts) != 3 * channels or not 1 <= channels <= 4 or len(set(parts[::3])) != 1:
        return None
    steps = set(parts[1::3]) | set(parts[2::3])
    return Jpeg2000(channels, (parts[0] & 0x7F) + 1, bool(parts[0] & 0x80), steps != {1}, colours)


def avif_bits(data: bytes) -> int:
    """Return the bits per channel of an AVIF."""
    bits = 8
    for kind, start, end in _properties(data):
        if kind == b"av1C" and end - start >= 3 and data[start + 2] & 0x40:
            bits = max(bits, 12 if data[start + 2] & 0x20 else 10)
    return bits


def colour_codes(data: bytes) -> bytes | None:
    """Return the content of a PNG's cICP for the colour space of an AVIF; None for sRGB and what is not specified."""
    for kind, start, end in _properties(data):
        if kind == b"colr" and data[start : start + 4] == b"nclx" and end - start >= 11:
            primaries, transfer = struct.unpack_from(">HH", data, start + 4)
            return cicp(primaries, transfer)
    return None


def cicp(primaries: int, transfer: int) -> bytes | None:
    """Return the content of a PNG's cICP; None for sRGB and what is not specified."""
    if (primaries, transfer) in _LIKE_SRGB or _UNSPECIFIED in (primaries, transfer):
        return None
    return bytes((primaries & 255, transfer & 255, 0, 1))


def has_garbled_names(data: bytes) -> bool:
    """Check whether names of a HEIC's items are no text, by which pi-heif 1.4 would end the process."""
    for kind, start, end in boxes(data):
        if kind != b"meta":
            continue
        for inner, first, last in boxes(data, start + 4, end):
            if inner == b"iinf":
                entries = first + (6 if data[first : first + 1] == b"\0" else 8)
                for part, begin, stop in boxes(data, entries, last):
                    numbers = 8 if data[begin : begin + 1] == b"\2" else 10  # version, flags, item and protection
                    if part == b"infe" and not _is_text(data[begin + numbers : stop]):
                        return True
    return any(kind == b"auxC" and not _is_text(data[start + 4 : end]) for kind, start, end in _properties(data))


def _is_text(content: bytes) -> bool:
    """Check strings, which are in UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _properties(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    for kind, start, end in boxes(data):
        if kind == b"meta":
            for inner, first, last in boxes(data, start + 4, end):
                if inner == b"iprp":
                    for part, begin, stop in boxes(data, first, last):
                        if part == b"ipco":
                            yield from boxes(data, begin, stop)
