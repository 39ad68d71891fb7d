# SPDX-License-Identifier: Apache-2.0
"""Reads 16-bit files of the simplest formats, Netpbm (PGM, PPM, PAM) and SGI, which Pillow reduces to 8 bits."""

from __future__ import annotations

import re
import struct

import numpy as np

from mrda.photo.depth import full_range, stretched
from mrda.photo.source import ImageArray, ImageError

_PNM = re.compile(rb"P([2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
LONGEST_HEADER = 4096
_SGI = b"\x01\xda"
_SHORT = "the file ends too early"


def netpbm_header(head: bytes) -> tuple[int, int, int, int, int] | None:
    """Return width, height, channels, greatest level and length of the header of a PGM, PPM or PAM; None otherwise."""
    if match := _PNM.match(head):
        width, height, most = map(int, match.groups()[1:])
        return width, height, 3 if match[1] in b"36" else 1, most, match.end()
    end = head.find(b"ENDHDR\n")
    if not head.startswith(b"P7\n") or end < 0:
        return None
    fields = dict(line.split(None, 1) for line in head[:end].splitlines() if len(line.split(None, 1)) == 2)
    try:
        width, height, channels, most = (int(fields[key]) for key in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError):
        return None
    return width, height, channels, most, end + 7


def read_netpbm(data: bytes) -> ImageArray:
    """Read a PGM, PPM or PAM of any greatest level up to 65535.

    Raises:
        ImageError: the file is too short or its header is invalid.
    """
    header = netpbm_header(data[:LONGEST_HEADER])
    if header is None:
        raise ImageError("its header is damaged")
    width, height, channels, most, start = header
    if not (0 < most < 65536 and 1 <= channels <= 4 and width and height):
        raise ImageError("its header is damaged")
    count = width * height * channels
    if data[1:2] in (b"2", b"3"):
        words = data[start : start + 6 * count + 2**16].split(maxsplit=count)[:count]
        if len(words) < count or not all(word.isdigit() and len(word) <= 6 for word in words):
            raise ImageError(_SHORT)
        levels = np.array([int(word) for word in words], np.uint32)
    else:
        kind = np.dtype(">u2" if most > 255 else np.uint8)
        if len(data) - start < count * kind.itemsize:
            raise ImageError(_SHORT)
        levels = np.frombuffer(data, kind, count, start)
    return stretched(levels, most).reshape((height, width) if channels == 1 else (height, width, channels))


def is_deep_sgi(head: bytes) -> bool:
    """Check whether a file is an SGI of 16 bits."""
    return head[:2] == _SGI and head[3:4] == b"\2"


def sgi_size(head: bytes) -> tuple[int, int]:
    """Return width and height of an SGI from its first 12 bytes.

    Raises:
        ImageError: the file is too short.
    """
    if len(head) < 12:
        raise ImageError(_SHORT)
    dimension, width, height = struct.unpack_from(">xxxxHHH", head)
    return width, height if dimension > 1 else 1


def read_sgi(data: bytes) -> ImageArray:
    """Read an SGI of 16 bits.

    Raises:
        ImageError: the file is too short or damaged.
    """
    if len(data) < 512:
        raise ImageError(_SHORT)
    storage, dimension, width, height, channels = struct.unpack_from(">xxBxHHHH", data)
    height, channels = (height if dimension > 1 else 1), (channels if dimension > 2 else 1)
    if not (1 <= channels <= 4 and width and height and storage in (0, 1)):
        raise ImageError("its header is damaged")
    shape = (channels, height, width)
    if storage == 0:
        if len(data) < 512 + 2 * channels * height * width:
            raise ImageError(_SHORT)
        planes = np.frombuffer(data, ">u2", channels * height * width, 512).reshape(shape)
    else:
        rows = channels * height
        if len(data) < 512 + 8 * rows:
            raise ImageError(_SHORT)
        starts = struct.unpack_from(f">{rows}I", data, 512)
        planes = np.stack([_sgi_row(data, start, width) for start in starts]).reshape(shape)
    pixels = full_range(np.ascontiguousarray(planes[:, ::-1].transpose(1, 2, 0)), 16)
    return pixels[..., 0] if channels == 1 else pixels


def _sgi_row(data: bytes, place: int, width: int) -> ImageArray:
    """Decode a row: counts, each before as many levels, or before one that is repeated."""
    row = np.zeros(width, np.uint16)
    column = 0
    while place + 2 <= len(data):
        (code,) = struct.unpack_from(">H", data, place)
        count, place = code & 0x7F, place + 2
        if count == 0:
            return row
        count = min(count, width - column)
        needed = 2 * (code & 0x7F) if code & 0x80 else 2
        if place + needed > len(data):
            break
        row[column : column + count] = np.frombuffer(data, ">u2", count if code & 0x80 else 1, place)
        column, place = column + count, place + needed
        if column == width and not data[place : place + 2].strip(b"\0"):
            return row
    raise ImageError(_SHORT)


def is_deep_netpbm(head: bytes) -> bool:
    """Check whether a file is a Netpbm that Pillow does not read, or only to 8 bits."""
    header = netpbm_header(head)
    return header is not None and (header[3] > 255 or head.startswith(b"P7"))
