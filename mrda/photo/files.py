# SPDX-License-Identifier: Apache-2.0
"""Reads and writes photographs with 16 bits, transparency, colour profile, EXIF, XMP, resolution and comment."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from mrda.core.files import atomic_write
from mrda.photo.deep import is_deep, read_deep
from mrda.photo.images import (
    EXIF_ERRORS,
    ORIENTATION,
    ImageArray,
    ImageError,
    Source,
    canonical,
    decoded,
    opened,
    orientation,
    to_eight_bits,
)
from mrda.photo.png import PNGWriter

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
"""Suffixes of the formats that can be written, by name."""
MAX_PIXELS = 250_000_000
"""Default limit of a photo's pixels."""

_EXIF_IFD, _GPS_IFD, _PIXEL_X, _PIXEL_Y = 0x8769, 0x8825, 0xA002, 0xA003
# Tags that TIFF and EXIF share: description, camera, model, date, artist, copyright.
_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0132, 0x013B, 0x8298)
_XMP_ORIENTATION = re.compile(rb'\s*tiff:Orientation="\d+"|<tiff:Orientation>\d+</tiff:Orientation>')
_SRGB = (0.45455, 0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # gamma and chromaticities of a PNG
_STRIP_ROWS = 64
_SIDES = {"jpg": 65500, "webp": 16383}
_NAMES = {"jpg": "JPEG", "webp": "WebP"}
_FULL_CHROMA = 90  # JPEG quality from which the chroma keeps its resolution
_MARKER = 65533  # capacity of a JPEG marker in bytes
_COMMENT = 2**15  # largest comment in bytes; Pillow 12's buffer is too small for one near 64 KB
_EXIF_PREFIX, _XMP_PREFIX = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_KEPT_TEXT = frozenset({"XML:com.adobe.xmp", "Raw profile type exif"})  # keywords in a PNG
_IPTC, _PHOTOSHOP = 0x83BB, 0x8649  # tags of a TIFF
_PHOTOSHOP_IPTC = 0x0404  # a resource in Photoshop's block of a JPEG
_DAMAGED = "damaged EXIF was left out"


@dataclass(frozen=True)
class Photo:
    """A photograph, turned upright.

    Attributes:
        pixels: (H, W) or (H, W, C), uint8 or uint16; C is 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
        icc: the colour profile.
        exif: the EXIF block without orientation and thumbnail, beginning with its byte order.
        xmp: the XMP packet.
        dpi: pixels per inch, horizontally and vertically.
        comment: the comment of a JPEG or GIF.
        notices: things that could not be kept, in a few words each.
    """

    pixels: ImageArray
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    notices: tuple[str, ...] = ()


def read_photo(source: Source, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photograph and turn it upright according to its EXIF orientation.

    A palette becomes RGB, and so does CMYK, by its colour profile if it has one. 16-bit colour is kept if imagecodecs
    is installed (extra `deep`).

    Args:
        source: see `mrda.photo.images.read_image`.
        max_pixels: a photo with more pixels is refused before it is decoded.

    Raises:
        ImageError: as `mrda.photo.images.read_image`, or the photo is larger than ``max_pixels``.
    """
    with opened(source) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"it has {width} x {height} = {width * height:,} pixels, more than the {max_pixels:,} that are allowed"
            )
        tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
        # Decoding a TIFF removes its tags; in other formats they may follow the pixels.
        tags = _tags(image) if tiff else None
        turned = decoded(image)
        turn, exif, notices = tags or _tags(image)
        photo = Photo(
            pixels=np.empty(0),
            icc=image.info.get("icc_profile"),
            exif=exif,
            xmp=_xmp(image),
            dpi=_dpi(image),
            comment=_comment(image),
            notices=(*notices, *_left_out(source, image)),
        )
        if is_deep(source, image):
            deep, notice = read_deep(source, image)
            if deep is not None:
                return replace(photo, pixels=_oriented(deep, turn))
            photo = replace(photo, notices=(*photo.notices, notice))
        return _with_pixels(photo, turned)


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
) -> tuple[str, ...]:
    """Write a photograph from its bands of rows, completely or not at all.

    PNG and TIFF are written as the bands arrive; JPEG and WebP need the whole image in memory.

    Args:
        path: the file.
        bands: (n, W) or (n, W, C) each, uint8 or uint16, from top to bottom; at least one.
        height: total number of rows.
        like: the photo to take colour profile, EXIF, XMP, resolution and comment from.
        format: a key of `FORMATS`.
        quality: quality of JPEG and WebP, 1 to 100.

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
    exif, notices = _sized(like.exif, width, height)
    if like.comment and format != "jpg":
        notices.append(f"the comment was left out, because {format} has no comments")
    if format in ("png", "tiff"):
        if format == "tiff" and exif:
            notices.append("EXIF was left out, because it cannot be copied to a TIFF")
        with atomic_write(path) as file:
            if format == "png":
                _write_png(file, first, stream, height, channels, like, exif)
            else:
                _write_tiff(file, first, stream, height, channels, like)
        return tuple(notices)
    pixels = np.concatenate([first, *stream])
    if pixels.dtype == np.uint16:
        pixels = to_eight_bits(pixels)
        notices.append(f"16 bits were reduced to 8, because {format} has no more")
    if format == "jpg" and channels in (2, 4):
        pixels = _on_white(pixels)
        notices.append("transparency became white, because jpg has none")
    options: dict[str, Any] = {
        "quality": quality,
        "icc_profile": like.icc,
        "exif": _EXIF_PREFIX + exif if exif else None,
        "xmp": like.xmp,
    }
    if format == "jpg":
        options["dpi"], options["comment"] = like.dpi, like.comment
        if quality >= _FULL_CHROMA:
            options["subsampling"] = 0  # Pillow's number for 4:4:4
        for name, title, prefix, limit in (
            ("exif", "EXIF", b"", _MARKER),
            ("xmp", "XMP", _XMP_PREFIX, _MARKER),
            ("comment", "the comment", b"", _COMMENT),
        ):
            if len(prefix) + len(options[name] or b"") > limit:
                options[name] = None
                notices.append(f"{title} was left out, because a JPEG has at most {-(-limit // 1024)} KB for it")
    elif like.icc is not None and like.icc[16:20] != b"RGB ":
        options["icc_profile"] = None
        notices.append("the colour profile was left out, because WebP stores gray as RGB")
    encoded = io.BytesIO()
    kept = {key: value for key, value in options.items() if value is not None}
    Image.fromarray(pixels).save(encoded, _NAMES[format], **kept)
    with atomic_write(path) as file:
        file.write(encoded.getbuffer())
    return tuple(notices)


def _with_pixels(photo: Photo, image: Image.Image) -> Photo:
    notices, icc = list(photo.notices), photo.icc
    if image.mode == "CMYK":
        notices.append("CMYK became RGB")
        if icc is not None:
            image = _to_srgb(image, icc)
        icc = None  # it does not describe RGB
    elif image.mode == "P" or image.mode == "PA":
        notices.append("the palette became RGB")
    elif image.mode in ("LAB", "HSV"):
        notices.append(f"{image.mode} became RGB" + ", without its colour profile" * (icc is not None))
        icc = None
    return replace(photo, pixels=np.asarray(canonical(image)), icc=icc, notices=tuple(notices))


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):  # a damaged profile; the pixels are intact
        return image
    return image if converted is None else converted


def _oriented(pixels: ImageArray, turn: int) -> ImageArray:
    """Turn pixels of the EXIF orientation 1 to 8 upright."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _on_white(pixels: ImageArray) -> ImageArray:
    colour, alpha = pixels[..., :-1].astype(np.float32), pixels[..., -1:].astype(np.float32) / 255
    levels = np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return levels[..., 0] if levels.shape[-1] == 1 else levels


def _tags(image: Image.Image) -> tuple[int, bytes | None, tuple[str, ...]]:
    """Return the EXIF orientation, the EXIF block without it, and notices."""
    turn = orientation(image)
    try:
        exif = image.getexif()
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            exif = _descriptive(exif)
        exif.pop(ORIENTATION, None)
        return turn, (exif.tobytes().removeprefix(_EXIF_PREFIX) if len(exif) else None), ()
    except EXIF_ERRORS:
        return turn, None, (_DAMAGED,)


def _descriptive(tags: Image.Exif) -> Image.Exif:
    """Select the tags of a TIFF that describe the photo, not its storage."""
    exif = Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in tags:
            exif[tag] = tags[tag]
    for ifd in (_EXIF_IFD, _GPS_IFD):
        if values := tags.get_ifd(ifd):
            exif.get_ifd(ifd).update(values)
    return exif


def _sized(block: bytes | None, width: int, height: int) -> tuple[bytes | None, list[str]]:
    """Return the EXIF block with pixel dimensions updated, if it has them, and notices."""
    if block is None:
        return None, []
    exif = Image.Exif()
    try:
        exif.load(block)
        ifd = exif.get_ifd(_EXIF_IFD)
        if _PIXEL_X in ifd or _PIXEL_Y in ifd:
            ifd[_PIXEL_X], ifd[_PIXEL_Y] = width, height
        return exif.tobytes().removeprefix(_EXIF_PREFIX), []
    except EXIF_ERRORS:
        return None, [_DAMAGED]


def _xmp(image: Image.Image) -> bytes | None:
    """Return the XMP packet without the orientation, because the pixels are upright."""
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return _XMP_ORIENTATION.sub(b"", xmp) if isinstance(xmp, bytes) else None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    if dpi is None or not all(1 <= float(value) <= 65535 for value in dpi):  # also excludes NaN
        return None
    return float(dpi[0]), float(dpi[1])


def _comment(image: Image.Image) -> bytes | None:
    comment = image.info.get("comment")
    return comment if isinstance(comment, bytes) else None  # the text of a PNG may have this name too


def _left_out(source: Source, image: Image.Image) -> Iterator[str]:
    """Yield notices on what the file has and `Photo` does not."""
    frames = _frames(source)
    if frames > 1:
        yield f"only the first of {frames} pages or frames was kept"
    if blocks := list(_blocks(image)):
        yield f"left out: {', '.join(blocks)}"
    if image.format != "PNG" or image.info.keys() & {"icc_profile", "srgb"}:
        return
    colours = (image.info.get("gamma", _SRGB[0]), *image.info.get("chromaticity", _SRGB[1:]))
    if max(abs(own - other) for own, other in zip(colours, _SRGB, strict=True)) > 0.001:
        yield "the PNG's gamma and chromaticities were left out"


def _blocks(image: Image.Image) -> Iterator[str]:
    """Yield names of metadata that can't be copied."""
    if isinstance(image, PngImagePlugin.PngImageFile) and image.text.keys() - _KEPT_TEXT:
        yield "the PNG's text"
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if sum(name == "COM" for name, _ in image.applist) > 1:
            yield "all comments but the last"
        if "photoshop" in image.info:
            yield "Photoshop's block" + " with IPTC" * (_PHOTOSHOP_IPTC in image.info["photoshop"])
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if _IPTC in image.tag_v2:
            yield "IPTC"
        if _PHOTOSHOP in image.tag_v2:
            yield "Photoshop's block"


def _frames(source: Source) -> int:
    # In a file opened again, because counting moves away from the first frame.
    try:
        with opened(source) as image:
            return int(getattr(image, "n_frames", 1))
    except (ImageError, EOFError):  # the first frame is intact
        return 1


def _write_png(
    file: BinaryIO,
    first: ImageArray,
    rest: Iterator[ImageArray],
    height: int,
    channels: int,
    like: Photo,
    exif: bytes | None,
) -> None:
    keep: dict[str, Any] = {"icc": like.icc, "exif": exif, "xmp": like.xmp, "dpi": like.dpi}
    with PNGWriter(file, first.shape[1], height, channels, first.dtype, **keep) as writer:
        writer.write(first)
        for band in rest:
            writer.write(band)


def _write_tiff(
    file: BinaryIO, first: ImageArray, rest: Iterator[ImageArray], height: int, channels: int, like: Photo
) -> None:
    tifffile.imwrite(
        file,
        (_deflated(strip) for strip in _strips(first, rest)),
        shape=(height, *first.shape[1:]),
        dtype=first.dtype,
        byteorder="<",
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="adobe_deflate",
        predictor=True,
        rowsperstrip=_STRIP_ROWS,
        iccprofile=like.icc,
        resolution=like.dpi,
        resolutionunit="INCH" if like.dpi else None,
        metadata=None,
        software=False,
        bigtiff=first[:1].nbytes * height > 2**31,
        extratags=[] if like.xmp is None else [(700, 1, len(like.xmp), like.xmp, True)],
    )


def _strips(first: ImageArray, rest: Iterator[ImageArray]) -> Iterator[ImageArray]:
    """Regroup bands into strips of exactly `_STRIP_ROWS` rows, except the last one."""
    held = first
    while True:
        while len(held) >= _STRIP_ROWS:
            yield held[:_STRIP_ROWS]
            held = held[_STRIP_ROWS:]
        band = next(rest, None)
        if band is None:
            if len(held):
                yield held
            return
        held = np.concatenate([held, band])


def _deflated(strip: ImageArray) -> bytes:
    """Encode a strip: differences along the rows, compressed. tifffile takes strips of an iterator only as bytes."""
    differences = strip.astype(strip.dtype.newbyteorder("<"))
    differences[:, 1:] -= strip[:, :-1]
    return zlib.compress(differences.tobytes())
