# SPDX-License-Identifier: Apache-2.0
"""Reads the chunks of PNG files that Pillow does not give as they are stored."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mrda.photo.photoshop import from_raw_profile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR = (b"cICP", b"gAMA", b"cHRM", b"sRGB")
"""Names of the chunks on the colour space, which come before the profile and the palette."""
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_LARGEST = 2**24  # bytes of a chunk, and of an inflated text
_RAW_PROFILE = b"Raw profile type "


class Chunks(NamedTuple):
    """Chunks of a PNG.

    Attributes:
        bits: bits per channel.
        colour_type: 0 (gray), 2 (RGB), 3 (palette), 4 (gray, alpha) or 6 (RGB, alpha).
        key: the content of tRNS.
        colour: names and contents of the chunks on the colour space, except for an ICC profile.
        text: names and contents of the text chunks, except for EXIF, XMP and IPTC.
        profiles: contents of EXIF (as "exif") and Photoshop's resources ("8bim") or IPTC ("iptc") in text chunks.
    """

    bits: int
    colour_type: int
    key: bytes | None
    colour: tuple[tuple[bytes, bytes], ...]
    text: tuple[tuple[bytes, bytes], ...]
    profiles: dict[str, bytes]


def read_chunks(file: BinaryIO) -> Chunks | None:
    """Read the chunks of an open PNG, as far as they are intact; None if it is no PNG."""
    file.seek(0)
    head = file.read(29)
    if head[:8] != SIGNATURE or head[12:16] != b"IHDR" or len(head) < 29:
        return None
    bits, colour_type = head[24], head[25]
    file.seek(8)
    key: bytes | None = None
    colour: dict[bytes, bytes] = {}
    text: list[tuple[bytes, bytes]] = []
    profiles: dict[str, bytes] = {}
    for name, content in _wanted(file):
        if name == b"tRNS":
            key = content
        elif name in COLOUR:
            colour.setdefault(name, content)
        elif not (found := _profile(name, content)):
            text.append((name, content))
        else:
            profiles.update(found)
    return Chunks(bits, colour_type, key, tuple(colour.items()), tuple(text), profiles)


def _wanted(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"IEND":
            return
        if name not in (*COLOUR, *_TEXT, b"tRNS") or length > _LARGEST:
            file.seek(length + 4, 1)
            continue
        content, checksum = file.read(length), file.read(4)
        if len(checksum) < 4:
            return
        if zlib.crc32(content, zlib.crc32(name)) == int.from_bytes(checksum, "big"):
            yield name, content


def _profile(name: bytes, content: bytes) -> dict[str, bytes]:
    """Return a profile in a text chunk, by its name; "xmp" with nothing for XMP, which Pillow reads."""
    keyword, _, rest = content.partition(b"\0")
    if keyword == b"XML:com.adobe.xmp" and name == b"iTXt":
        return {"xmp": b""}
    if not keyword.startswith(_RAW_PROFILE) or name == b"iTXt":
        return {}
    kind = keyword.removeprefix(_RAW_PROFILE).decode("latin-1").lower()
    kind = "exif" if kind == "app1" else kind
    if kind not in ("exif", "iptc", "8bim"):
        return {}
    if name == b"zTXt":
        try:
            inflate = zlib.decompressobj()
            rest = inflate.decompress(rest[1:], _LARGEST)
        except zlib.error:
            return {}
    found = from_raw_profile(rest)
    return {} if found is None else {kind: found}
