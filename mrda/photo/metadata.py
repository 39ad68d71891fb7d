# SPDX-License-Identifier: Apache-2.0
"""Metadata of photo files: what an enlarged photo may keep of it, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from statistics import fmean
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from mrda.photo import boxes, exif, ifd, photoshop, png_reader, tiff, xmp
from mrda.photo.ifd import Directory, IFDError, TagFile
from mrda.photo.photo import Photo

_DAMAGED = "damaged EXIF was left out"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_LARGEST = 2**28  # bytes of a block in a TIFF
_NOTHING = np.empty(0)
_LUMA_STEP = 57.625  # mean of the standard's table of luma, which is that of quality 50


def of_image(image: Image.Image, file: BinaryIO, frames: int) -> Photo:
    """Collect the metadata of a decoded image.

    Args:
        image: the image.
        file: its file.
        frames: number of its pages or frames.

    Returns:
        A photo without pixels.
    """
    lost: dict[str, None] = {}
    chunks = png_reader.read_chunks(file) if isinstance(image, PngImagePlugin.PngImageFile) else None
    resources, colour = None, chunks.colour if chunks is not None else ()
    text = chunks.text if chunks is not None else ()
    if chunks is not None:
        resources = chunks.profiles.get("8bim")
        if iptc := chunks.profiles.get("iptc"):
            whole = iptc.startswith(b"8BIM")
            resources = (resources or b"") + iptc if whole else photoshop.with_iptc(resources or b"", iptc)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        resources = _joined(image.applist, "APP13", photoshop.PREFIX)
        lost.update(dict.fromkeys(_lost_of_jpeg(image.applist)))
    if image.format == "AVIF":
        file.seek(0)
        if "icc_profile" not in image.info and (codes := boxes.colour_codes(file.read())) is not None:
            colour = ((b"cICP", codes),)
    block, notices = _upright(_exif_of(image, chunks))
    packet = image.info.get("xmp")
    kept, claims = _true_xmp(packet.encode() if isinstance(packet, str) else packet)
    lost.update(dict.fromkeys(claims))
    return Photo(
        pixels=_NOTHING,
        icc=image.info.get("icc_profile"),
        exif=block,
        xmp=kept,
        dpi=_sensible(image.info.get("dpi")),
        comments=tuple(_comments(image)),
        photoshop=photoshop.kept(resources) or None if resources else None,
        colour=colour,
        text=text,
        notices=(*notices, *_notices(frames, lost)),
        jpeg_quality=jpeg_quality(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else None,
    )


def jpeg_quality(image: JpegImagePlugin.JpegImageFile) -> int | None:
    """Return the quality whose table of luma is as coarse on average; None without tables, as in lossless JPEG."""
    if not image.quantization:
        return None
    percent = 100 * fmean(image.quantization[min(image.quantization)]) / _LUMA_STEP
    return min(100, max(1, round(100 - percent / 2 if percent <= 100 else 5000 / percent)))


def of_tiff(stored: tiff.TIFF, file: BinaryIO) -> tuple[Photo, int]:
    """Collect the metadata of a TIFF; returns a photo without pixels, and the orientation, 1 if unknown."""
    tags, directory = stored.tags, stored.directory
    notices: list[str] = []
    try:
        block, moved = exif.from_tiff(file, stored.offset)
        if moved:
            notices.append("the maker note was moved within the EXIF, so that some programs can't read it")
    except IFDError:
        block = None
        notices.append(_DAMAGED)
    packet = _block(tags, directory, ifd.XMP)
    kept, claims = _true_xmp(packet)
    resources = photoshop.kept(_block(tags, directory, ifd.PHOTOSHOP) or b"")
    if iptc := _block(tags, directory, ifd.IPTC):
        resources = photoshop.with_iptc(resources, iptc)
    turn = 1
    if directory.get(exif.ORIENTATION) is None:
        turn = xmp.orientation(packet or b"") or 1
    else:
        with suppress(IFDError):
            turn = tags.integer(directory, exif.ORIENTATION)
    photo = Photo(
        pixels=_NOTHING,
        icc=_block(tags, directory, ifd.ICC),
        exif=block,
        xmp=kept,
        dpi=_sensible(tiff.resolution(tags, directory)),
        photoshop=resources or None,
        notices=(*notices, *_notices(stored.pages, claims)),
    )
    return photo, turn


def of_heic(info: dict[str, Any], frames: int) -> Photo:
    """Collect the metadata of a HEIC from what pi-heif says of it; its pixels are upright already."""
    lost: dict[str, None] = {}
    if any("hdrgainmap" in str(name).lower() for name in info.get("aux") or {}):
        lost["the HDR gain map"] = None
    if info.get("depth_images"):
        lost["the depth map"] = None
    block, notices = _upright(info.get("exif"))
    kept, claims = _true_xmp(info.get("xmp"))
    lost.update(dict.fromkeys(claims))
    nclx = info.get("nclx_profile") or {}
    codes = boxes.cicp(int(nclx.get("color_primaries", 2)), int(nclx.get("transfer_characteristics", 2)))
    icc = info.get("icc_profile") or None
    return Photo(
        pixels=_NOTHING,
        icc=icc,
        exif=block,
        xmp=kept,
        colour=((b"cICP", codes),) if codes is not None and icc is None else (),
        notices=(*notices, *_notices(frames, lost)),
    )


def _exif_of(image: Image.Image, chunks: png_reader.Chunks | None) -> bytes | None:
    if image.format == "AVIF" and (decoder := getattr(image, "_decoder", None)) is not None:
        # Pillow writes the block in `info` anew, if it disagrees with the orientation of the file.
        stored = decoder.get_info()[4:5]
        return stored[0] if stored and isinstance(stored[0], bytes) else None
    block = image.info.get("exif")
    if block is None and chunks is not None:
        block = chunks.profiles.get("exif")
    return block if isinstance(block, bytes) else None


def _upright(block: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    block = (block or b"").removeprefix(exif.PREFIX)
    if not block:
        return None, ()
    try:
        return (None if exif.is_orientation_only(block) else exif.upright(block)), ()
    except IFDError:
        return None, (_DAMAGED,)


def _true_xmp(packet: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    return (None, ()) if not packet else xmp.without_falsehoods(packet)


def _block(tags: TagFile, directory: Directory, tag: int) -> bytes | None:
    """Read a block of bytes in a TIFF; None if there is none, or it is damaged."""
    entry = directory.get(tag)
    if entry is None or not 0 < entry.size <= _LARGEST:
        return None
    try:
        return tags.content(entry)
    except IFDError:
        return None


def _joined(segments: Iterable[tuple[str, bytes]], name: str, prefix: bytes) -> bytes:
    """Join the contents of a JPEG's segments that begin with a prefix."""
    return b"".join(content[len(prefix) :] for kind, content in segments if kind == name and content.startswith(prefix))


def _lost_of_jpeg(segments: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    for name, content in segments:
        if name == "APP1" and content.startswith(_EXTENDED_XMP):
            yield "extended XMP"
        if name == "APP2" and content.startswith(_GAIN_MAP):
            yield "the HDR gain map"


def _comments(image: Image.Image) -> Iterator[bytes]:
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        yield from (content for name, content in image.applist if name == "COM")
    elif image.format == "GIF" and isinstance(comment := image.info.get("comment"), bytes):
        yield comment


def _sensible(dpi: Any) -> tuple[float, float] | None:
    if dpi is None or not all(1 <= float(value) <= 65535 for value in dpi):  # also excludes NaN
        return None
    return float(dpi[0]), float(dpi[1])


def _notices(frames: int, lost: Iterable[str]) -> Iterator[str]:
    if frames > 1:
        yield f"only the first of {frames} pages or frames was kept"
    if names := list(lost):
        yield f"left out: {', '.join(names)}"
