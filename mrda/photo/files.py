# SPDX-License-Identifier: Apache-2.0
"""Writes photographs with 16 bits, transparency, colour profile, EXIF, XMP, IPTC, resolution, text and comments."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from mrda.core.files import atomic_write
from mrda.photo import exif, photoshop, xmp
from mrda.photo.ifd import IFDError
from mrda.photo.images import to_eight_bits
from mrda.photo.photo import Photo
from mrda.photo.png import PNGWriter
from mrda.photo.reading import read_photo
from mrda.photo.row_writer import RowWriter
from mrda.photo.source import ImageArray
from mrda.photo.tiff_writer import TIFFWriter, needs_big

__all__ = ["FORMATS", "MAX_PIXELS", "Photo", "check_size", "read_photo", "write_photo"]

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
"""Suffixes of the formats that can be written, by name."""
MAX_PIXELS = 250_000_000
"""Default limit of a photo's pixels."""

_SIDES = {"jpg": 65500, "webp": 16383}
_NAMES = {"jpg": "JPEG", "webp": "WebP", "png": "PNG", "tiff": "TIFF"}
_FULL_CHROMA = 90  # JPEG quality from which the chroma keeps its resolution
_MARKER = 65533  # capacity of a JPEG marker in bytes
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_APP0, _APP1, _APP13, _COM = 0xE0, 0xE1, 0xED, 0xFE
_SRGB = {b"gAMA": (45455,), b"cHRM": (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)}  # by 1/100,000
_NEAR = 100


def check_size(format: str, height: int, width: int) -> None:
    """Raise ValueError if a format, a key of `FORMATS`, can't hold an image of that size."""
    side = _SIDES.get(format)
    if side is not None and max(height, width) > side:
        raise ValueError(
            f"{_NAMES[format]} holds at most {side} x {side} pixels, but the image has {width} x {height}: "
            "write PNG or TIFF instead"
        )


def write_photo(
    path: str | Path,
    bands: Iterable[ImageArray],
    height: int,
    like: Photo,
    *,
    format: str,
    quality: int = 95,
    lossless: bool | None = None,
) -> tuple[str, ...]:
    """Write a photograph from its bands of rows, completely or not at all.

    PNG and TIFF are written as the bands arrive; JPEG and WebP need the whole image in memory.

    Args:
        path: the file.
        bands: (n, W) or (n, W, C) each, uint8 or uint16, from top to bottom; at least one.
        height: total number of rows.
        like: the photo to take all but the pixels from.
        format: a key of `FORMATS`.
        quality: quality of JPEG and lossy WebP, 1 to 100.
        lossless: write WebP without loss; None does so if the photo is a lossless WebP.

    Returns:
        What could not be kept, in a few words each.

    Raises:
        OSError: the folder is missing or the disk is full.
        ValueError: the format can't hold an image of that size, see `check_size`.
    """
    stream = iter(bands)
    first = next(stream)
    width, channels = first.shape[1], first.shape[2] if first.ndim == 3 else 1
    check_size(format, height, width)
    kept, notices = _fitting(like, width, height, format)
    if format in ("png", "tiff"):
        if format == "tiff" and kept.exif and needs_big(width, height, channels, first.dtype):
            notices.append("EXIF was left out, because the TIFF is larger than 4 GB")
        with atomic_write(path) as file:
            _write_rows(file, first, stream, height, channels, kept, format)
        return tuple(notices)
    pixels = np.concatenate([first, *stream])
    if pixels.dtype == np.uint16:
        pixels = to_eight_bits(pixels)
        notices.append(f"16 bits were reduced to 8, because {format} has no more")
    if format == "jpg":
        if channels in (2, 4):
            pixels = _on_white(pixels)
            notices.append("transparency became white, because jpg has none")
        content = _jpeg(pixels, kept, quality)
    else:
        content = _webp(pixels, kept, quality, kept.lossless if lossless is None else lossless)
    with atomic_write(path) as file:
        file.write(content)
    return tuple(notices)


@dataclass(frozen=True)
class _Kept:
    """Metadata that fit the result: its own sizes in EXIF and XMP, and only what its format holds."""

    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    comments: tuple[bytes, ...]
    photoshop: bytes | None
    colour: tuple[tuple[bytes, bytes], ...]
    text: tuple[tuple[bytes, bytes], ...]
    lossless: bool


def _fitting(like: Photo, width: int, height: int, format: str) -> tuple[_Kept, list[str]]:
    """Return what is kept of a photo's metadata, and notices on the rest."""
    notices: list[str] = []
    name = _NAMES[format]
    block = like.exif
    if block is not None:
        try:
            block = exif.sized(block.removeprefix(exif.PREFIX), width, height)
        except IFDError:
            block = None
            notices.append("damaged EXIF was left out")
    packet = like.xmp
    if packet is not None:
        old_height, old_width = like.pixels.shape[:2] if like.pixels.ndim >= 2 else (height, width)
        packet = xmp.sized(packet, width, height, (width / old_width, height / old_height))
    comments, colour, text, resources, icc = like.comments, like.colour, like.text, like.photoshop, like.icc
    if format == "jpg":
        for title, prefix, content in (("EXIF", exif.PREFIX, block), ("XMP", _XMP_PREFIX, packet)):
            if content is not None and len(prefix) + len(content) > _MARKER:
                notices.append(f"{title} was left out, because a JPEG has at most 64 KB for it")
                block, packet = (None, packet) if title == "EXIF" else (block, None)
        if any(len(comment) > _MARKER for comment in comments):
            comments = tuple(comment for comment in comments if len(comment) <= _MARKER)
            notices.append("the comment was left out, because a JPEG has at most 64 KB for it")
    elif comments and not (format == "png" and all(map(_is_text, comments))):
        comments = ()
        notices.append(f"the comment was left out, because {format} has no comments")
    if format == "webp":
        if resources is not None:
            lost = "Photoshop's block" + " with IPTC" * (photoshop.iptc(resources) is not None)
            notices.append(f"{lost} was left out, because WebP has no place for it")
            resources = None
        if icc is not None and icc[16:20] != b"RGB ":
            notices.append("the colour profile was left out, because WebP stores gray as RGB")
            icc = None
    if format != "png":
        if text:
            notices.append(f"the PNG's text was left out, because {name} has no place for it")
        if any(chunk == b"cICP" for chunk, _ in colour):
            notices.append(
                f"the colour space (cICP) was left out, because {name} has no place for it, so that colours look "
                "different: PNG keeps it"
            )
        elif icc is None and not any(chunk == b"sRGB" for chunk, _ in colour) and _is_unlike_srgb(colour):
            notices.append(f"the PNG's gamma and chromaticities were left out, because {name} has no place for them")
    kept = _Kept(icc, block, packet, like.dpi, comments, resources, colour, text, like.lossless)
    return kept, notices


def _is_text(comment: bytes) -> bool:
    return b"\0" not in comment


def _is_unlike_srgb(colour: Iterable[tuple[bytes, bytes]]) -> bool:
    """Check whether a PNG's gamma or chromaticities differ from those of sRGB, which other formats imply."""
    for name, content in colour:
        usual = _SRGB.get(name, ())
        if usual and len(content) == 4 * len(usual):
            own = struct.unpack(f">{len(usual)}I", content)
            if max(abs(a - b) for a, b in zip(own, usual, strict=True)) > _NEAR:
                return True
    return False


def _write_rows(
    file: BinaryIO,
    first: ImageArray,
    rest: Iterator[ImageArray],
    height: int,
    channels: int,
    kept: _Kept,
    format: str,
) -> None:
    size: tuple[int, int, int, Any] = (first.shape[1], height, channels, first.dtype)
    common: dict[str, Any] = {"icc": kept.icc, "exif": kept.exif, "xmp": kept.xmp, "dpi": kept.dpi}
    writer: RowWriter
    if format == "png":
        writer = PNGWriter(file, *size, **common, chunks=(*kept.colour, *kept.text, *_png_text(kept)))
    else:
        iptc = photoshop.iptc(kept.photoshop) if kept.photoshop is not None else None
        writer = TIFFWriter(file, *size, **common, photoshop=kept.photoshop, iptc=iptc)
    with writer:
        writer.write(first)
        for band in rest:
            writer.write(band)


def _png_text(kept: _Kept) -> Iterator[tuple[bytes, bytes]]:
    """Yield text chunks of comments and Photoshop's resources, as ExifTool and ImageMagick write them."""
    for comment in kept.comments:
        if comment.isascii():
            yield b"tEXt", b"Comment\0" + comment
            continue
        try:
            comment.decode()
        except UnicodeDecodeError:
            yield b"tEXt", b"Comment\0" + comment  # as Latin-1
        else:
            yield b"iTXt", b"Comment\0\0\0\0\0" + comment
    if kept.photoshop is not None:
        yield b"zTXt", photoshop.to_png(kept.photoshop)


def _jpeg(pixels: ImageArray, kept: _Kept, quality: int) -> bytes:
    options: dict[str, Any] = {"quality": quality, "icc_profile": kept.icc, "dpi": kept.dpi}
    if quality >= _FULL_CHROMA:
        options["subsampling"] = 0  # Pillow's number for 4:4:4
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{key: value for key, value in options.items() if value is not None})
    content = file.getvalue()
    segments = []
    if kept.exif is not None:
        segments.append((_APP1, exif.PREFIX + kept.exif))
    if kept.xmp is not None:
        segments.append((_APP1, _XMP_PREFIX + kept.xmp))
    most = _MARKER - len(photoshop.PREFIX)
    resources = kept.photoshop or b""
    for start in range(0, len(resources), most):
        segments.append((_APP13, photoshop.PREFIX + resources[start : start + most]))
    segments += [(_COM, comment) for comment in kept.comments]
    place = 2  # behind the start of the image, and JFIF's segment, which must be the first
    while content[place : place + 2] == bytes((0xFF, _APP0)):
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    inserted = (struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data for marker, data in segments)
    return content[:place] + b"".join(inserted) + content[place:]


def _webp(pixels: ImageArray, kept: _Kept, quality: int, lossless: bool) -> bytes:
    options: dict[str, Any] = {"icc_profile": kept.icc, "exif": kept.exif, "xmp": kept.xmp, "lossless": lossless}
    if lossless:
        options["exact"] = True  # the colours of transparent pixels too
    else:
        options["quality"] = quality
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", **{key: value for key, value in options.items() if value is not None})
    return file.getvalue()


def _on_white(pixels: ImageArray) -> ImageArray:
    colour, alpha = pixels[..., :-1].astype(np.float32), pixels[..., -1:].astype(np.float32) / 255
    levels = np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return levels[..., 0] if levels.shape[-1] == 1 else levels
