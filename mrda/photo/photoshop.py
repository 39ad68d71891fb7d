# SPDX-License-Identifier: Apache-2.0
"""Photoshop's image resources, one of which holds IPTC: titles, people and places as newspapers write them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

IPTC = 0x0404
"""Number of the resource."""
PREFIX = b"Photoshop 3.0\0"
"""Begins each of a JPEG's segments with resources."""
_THUMBNAILS = (0x0409, 0x040C)
_SIGNATURES = (b"8BIM", b"MeSa", b"PHUT", b"AgHg", b"DCSR")


def kept(resources: bytes) -> bytes:
    """Remove thumbnails, which are not enlarged, and whatever follows damage."""
    return b"".join(whole for number, _, whole in _each(resources) if number not in _THUMBNAILS)


def iptc(resources: bytes) -> bytes | None:
    """Return the content of the resource with IPTC."""
    return next((content for number, content, _ in _each(resources) if number == IPTC), None)


def with_iptc(resources: bytes, content: bytes) -> bytes:
    """Add a resource with IPTC, unless there is one."""
    if iptc(resources) is not None:
        return resources
    return resources + b"8BIM" + struct.pack(">HHI", IPTC, 0, len(content)) + content + b"\0" * (len(content) % 2)


def to_png(resources: bytes) -> bytes:
    """Return the content of a PNG's compressed text "Raw profile type 8bim", as ImageMagick and ExifTool read it."""
    digits = resources.hex()
    lines = "\n".join(digits[place : place + 72] for place in range(0, len(digits), 72))
    text = f"\n8bim\n{len(resources):8}\n{lines}\n".encode()
    return b"Raw profile type 8bim\0\0" + zlib.compress(text)


def from_raw_profile(text: bytes) -> bytes | None:
    """Return the bytes of such a text; None if it is damaged."""
    match = re.fullmatch(rb"\s*\S+\s+(\d+)\s([0-9a-fA-F\s]*)", text)
    if match is None:
        return None
    digits = re.sub(rb"\s", b"", match[2])
    if len(digits) % 2:
        return None
    return bytes.fromhex(digits.decode())


def _each(resources: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, content and whole bytes of each resource, up to damage."""
    place = 0
    while place + 12 <= len(resources) and resources[place : place + 4] in _SIGNATURES:
        (number,) = struct.unpack_from(">H", resources, place + 4)
        named = 1 + resources[place + 6]
        start = place + 6 + named + named % 2
        if start + 4 > len(resources):
            return
        (size,) = struct.unpack_from(">I", resources, start)
        end = start + 4 + size
        if end > len(resources):
            return
        yield number, resources[start + 4 : end], resources[place : end + size % 2].ljust(end + size % 2 - place, b"\0")
        place = end + size % 2
