# SPDX-License-Identifier: Apache-2.0
"""Reads photographs: the one function for upscaling, the page, training, evaluation and degrading.

The number of bits comes from the file, not from the mode in which a library reads it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from mrda.core.faults import reason
from mrda.photo import boxes, exif, plain, tiff
from mrda.photo.decoding import (
    UnknownFormatError,
    check_file,
    opened,
    orientation,
    pixels_of,
    png_bits,
    refusing_damage,
    turned,
)
from mrda.photo.depth import EXTRA, full_range, straight
from mrda.photo.ifd import MAGICS
from mrda.photo.kinds import HEIC, is_heic
from mrda.photo.metadata import of_heic, of_image, of_tiff
from mrda.photo.photo import Photo
from mrda.photo.source import ImageArray, ImageError, Source

_MISSING = f"{EXTRA} keeps them"


def read_photo(source: Source, max_pixels: int | None = None) -> Photo:
    """Read a photograph and turn it upright according to its EXIF orientation.

    A palette becomes RGB, and so does CMYK, by its colour profile if it has one. More than 8 bits per channel become
    16, of which white is 65535; where that needs an extra that is not installed, 8 bits are read and a notice says so.
    Of an animation, or a file of several pages, the first one is read.

    Args:
        source: a path or `"skimage:NAME"`, e.g. `"skimage:astronaut"`.
        max_pixels: a photo with more pixels is refused before it is decoded; None allows as many as Pillow.

    Raises:
        ImageError: the file is missing, empty, damaged, no photo, larger than ``max_pixels``, or its levels have no
            defined white (signed, floating-point or 32-bit numbers).
    """
    path, head = check_file(source)
    reader = _reader_of(head)
    if reader is None:
        return _read_by_pillow(source, path, max_pixels)
    with refusing_damage(source), path.open("rb") as file:
        return reader.read(source, path, file, max_pixels)


def read_size(source: Source) -> tuple[int, int]:
    """Look up a photograph's width and height in pixels, as stored, without decoding it.

    Raises:
        ImageError: as `read_photo`, for errors at the beginning of the file.
    """
    path, head = check_file(source)
    reader = _reader_of(head)
    if reader is not None:
        with refusing_damage(source), path.open("rb") as file:
            return reader.size(file)
    with opened(source) as image:
        return image.size


def _check_size(width: int, height: int, most: int | None) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"it has {width} x {height} pixels")
    if most is None and Image.MAX_IMAGE_PIXELS is not None:
        most = 2 * Image.MAX_IMAGE_PIXELS  # as Pillow has it
    if most is not None and width * height > most:
        raise ImageError(
            f"it has {width} x {height} = {width * height:,} pixels, more than the {most:,} that are allowed"
        )


def _reduced(bits: int, why: str) -> str:
    return f"{bits}-bit colours were reduced to 8 bits{why}"


def _read_tiff(source: Source, path: Path, file: BinaryIO, max_pixels: int | None) -> Photo:
    stored = tiff.TIFF(file)
    _check_size(stored.width, stored.height, max_pixels)
    photo, turn = of_tiff(stored, file)
    why = ", because their format is unusual"
    if not stored.for_pillow:
        try:
            return _completed(photo, stored, path, turn)
        except tiff.MissingCodecError:
            if not stored.is_first or stored.has_alpha:
                raise
            why = f": {_MISSING}"
    try:
        with opened(source) as image:
            mode, by_pillow = image.mode, image.getexif().get(exif.ORIENTATION)
            photo = _in_rgb(replace(photo, pixels=pixels_of(image)), image, mode)
    except UnknownFormatError:
        return _completed(photo, stored, path, turn)  # or the reason
    if by_pillow not in range(2, 9):  # otherwise decoding has turned it
        photo = replace(photo, pixels=turned(photo.pixels, turn))
    if stored.bits > 8 and photo.pixels.dtype == np.uint8:
        photo = replace(photo, notices=(*photo.notices, _reduced(stored.bits, why)))
    return photo


def _completed(photo: Photo, stored: tiff.TIFF, path: Path, turn: int) -> Photo:
    pixels, notices = stored.read(path)
    return replace(photo, pixels=turned(pixels, turn), notices=(*photo.notices, *notices))


def _read_netpbm(source: Source, path: Path, file: BinaryIO, max_pixels: int | None) -> Photo:
    _check_size(*_size_of_netpbm(file), max_pixels)
    return Photo(plain.read_netpbm(path.read_bytes()))


def _read_sgi(source: Source, path: Path, file: BinaryIO, max_pixels: int | None) -> Photo:
    _check_size(*plain.sgi_size(file.read(12)), max_pixels)
    return Photo(plain.read_sgi(path.read_bytes()))


def _open_heic(file: BinaryIO) -> Any:
    try:
        import pi_heif
    except ModuleNotFoundError:
        raise ImageError(HEIC) from None
    file.seek(0)
    if boxes.has_garbled_names(file.read()):
        raise ImageError("it is a damaged HEIC photo: names in it are no text")
    file.seek(0)
    try:
        # The numbers as they are stored; libheif turns the picture upright.
        return pi_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    except (ValueError, EOFError, SyntaxError, RuntimeError) as error:
        raise ImageError(f"it is a damaged HEIC photo, or of a variant that is not read: {reason(error)}") from error


def _read_heic(source: Source, path: Path, file: BinaryIO, max_pixels: int | None) -> Photo:
    heic = _open_heic(file)
    width, height = heic.size
    _check_size(width, height, max_pixels)
    pixels = np.array(heic)  # a copy, because the photo's memory ends with it
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    bits = 8 if pixels.dtype == np.uint8 else int(heic.info.get("bit_depth") or 16)
    pixels = full_range(pixels, bits)
    if heic.mode.startswith("RGBa"):
        pixels = straight(pixels)
    return replace(of_heic(heic.info, len(heic)), pixels=np.ascontiguousarray(pixels))


def _size_of_tiff(file: BinaryIO) -> tuple[int, int]:
    stored = tiff.TIFF(file)
    return stored.width, stored.height


def _size_of_netpbm(file: BinaryIO) -> tuple[int, int]:
    header = plain.netpbm_header(file.read(plain.LONGEST_HEADER))
    assert header is not None  # by which the file was taken for one
    return header[0], header[1]


def _size_of_heic(file: BinaryIO) -> tuple[int, int]:
    width, height = _open_heic(file).size
    return width, height


class _Reader(NamedTuple):
    """A format that is not left to Pillow: the check of a file's first bytes, and what reads photo and size."""

    fits: Callable[[bytes], bool]
    read: Callable[[Source, Path, BinaryIO, int | None], Photo]
    size: Callable[[BinaryIO], tuple[int, int]]


_READERS = (
    _Reader(lambda head: head.startswith(MAGICS), _read_tiff, _size_of_tiff),
    _Reader(plain.is_deep_netpbm, _read_netpbm, _size_of_netpbm),
    _Reader(plain.is_deep_sgi, _read_sgi, lambda file: plain.sgi_size(file.read(12))),
    _Reader(is_heic, _read_heic, _size_of_heic),
)


def _reader_of(head: bytes) -> _Reader | None:
    """Return what reads a file with these first bytes; None leaves it to Pillow."""
    return next((reader for reader in _READERS if reader.fits(head)), None)


def _read_by_pillow(source: Source, path: Path, max_pixels: int | None) -> Photo:
    with opened(source) as image:
        _check_size(*image.size, max_pixels)
        mode = image.mode
        deep, bits = _deep_decoder(image, path)
        shallow = pixels_of(image)  # in some formats metadata follow the pixels
        with path.open("rb") as file:
            photo = of_image(image, file, _frames(source))
        photo = replace(photo, lossless=image.format == "WEBP" and _is_lossless_webp(path))
        if deep is None:
            return _in_rgb(replace(photo, pixels=shallow), image, mode)
        try:
            pixels = deep()
        except ModuleNotFoundError:
            if image.format == "JPEG2000" and (bits < 8 or shallow.dtype == np.uint16):
                # Pillow keeps all bits of these, but shifts them, so that white is not the greatest level.
                levels = shallow >> (8 * shallow.itemsize - bits)
                return _in_rgb(replace(photo, pixels=full_range(levels, bits)), image, mode)
            lost = _reduced(bits, f": {_MISSING}")
            photo = replace(photo, notices=(*photo.notices, lost))
            return _in_rgb(replace(photo, pixels=shallow), image, mode)
        except (RuntimeError, ValueError, LookupError) as error:
            raise ImageError(f"its {bits}-bit colours are damaged: {reason(error)}") from error
        if pixels is None or pixels.shape[:2] != (image.height, image.width) or pixels.shape[2:] > (4,):
            lost = _reduced(bits, ", because their format is unusual")
            photo = replace(photo, notices=(*photo.notices, lost))
            return _in_rgb(replace(photo, pixels=shallow), image, mode)
        return replace(photo, pixels=turned(pixels, orientation(image)))


def _deep_decoder(image: Image.Image, path: Path) -> tuple[Callable[[], ImageArray | None] | None, int]:
    """Return a decoder that keeps bits which Pillow would lose, None if it loses none, and the bits per channel."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        bits = png_bits(image)
        return (lambda: _png(path)) if bits == 16 and image.mode in ("RGB", "RGBA", "LA") else None, bits
    if image.format == "JPEG2000":
        header = boxes.jpeg2000_header(path.read_bytes())
        if header is None or header.bits == 8:
            return None, 8
        if header.signed:
            raise ImageError("its pixels are signed integers, whose white is undefined: convert it to unsigned ones")
        if header.bits > 16:
            raise ImageError(f"its pixels are {header.bits}-bit integers: convert it to 16 bits")
        plain_colours = header.colours in (None, boxes.SRGB, boxes.GRAY) and not header.subsampled
        return lambda: _jpeg2000(path, header.bits) if plain_colours else None, header.bits
    if image.format == "AVIF" and (bits := boxes.avif_bits(path.read_bytes())) > 8:
        return lambda: _avif(path, bits), bits
    return None, 8


def _png(path: Path) -> ImageArray | None:
    import imagecodecs

    pixels = imagecodecs.png_decode(path.read_bytes())
    return pixels if pixels.dtype == np.uint16 and pixels.ndim == 3 else None


def _jpeg2000(path: Path, bits: int) -> ImageArray | None:
    import imagecodecs

    pixels = imagecodecs.jpeg2k_decode(path.read_bytes())
    return full_range(pixels, bits) if pixels.dtype in (np.uint8, np.uint16) else None


def _avif(path: Path, bits: int) -> ImageArray | None:
    import imagecodecs

    pixels = imagecodecs.avif_decode(path.read_bytes(), index=0)
    return full_range(pixels, bits) if pixels.dtype == np.uint16 else None


def _in_rgb(photo: Photo, image: Image.Image, mode: str) -> Photo:
    """Say which colours have become RGB, and leave out a profile that does not describe it."""
    notices, icc, pixels = list(photo.notices), photo.icc, photo.pixels
    if mode == "CMYK":
        notices.append("CMYK became RGB")
        if icc is not None and (converted := _by_profile(image, icc)) is not None:
            pixels = converted
        icc = None  # it does not describe RGB
    elif mode in ("P", "PA"):
        notices.append("the palette became RGB")
    elif mode in ("LAB", "HSV"):
        notices.append(f"{mode} became RGB" + ", without its colour profile" * (icc is not None))
        icc = None
    return replace(photo, pixels=pixels, icc=icc, notices=tuple(notices))


def _by_profile(image: Image.Image, icc: bytes) -> ImageArray | None:
    """Convert a decoded image of CMYK to sRGB, upright; None if the profile is damaged, while the pixels are intact."""
    turn = 1 if image.format == "TIFF" else orientation(image)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        return None
    return None if converted is None else turned(np.asarray(converted), turn)


def _frames(source: Source) -> int:
    # In a file opened again, because counting moves away from the first frame.
    try:
        with opened(source) as image:
            # Of a Photoshop document, whose frames are its layers, the whole is read.
            return 1 if image.format == "PSD" else int(getattr(image, "n_frames", 1))
    except (ImageError, EOFError):  # the first frame is intact
        return 1


def _is_lossless_webp(path: Path) -> bool:
    """Check whether the first frame of a WebP is lossless."""
    data = path.read_bytes()
    place = 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        # A frame of an animation has a header before its own chunks.
        place += 8 + (16 if kind == b"ANMF" else size + size % 2)
    return False
