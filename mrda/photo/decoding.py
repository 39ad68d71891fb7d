# SPDX-License-Identifier: Apache-2.0
"""Opens image files with Pillow, and takes the pixels out of its images without losing bits or transparency."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from mrda.core.faults import reason
from mrda.photo import exif, kinds, xmp
from mrda.photo.depth import full_range, with_key
from mrda.photo.opening import open_image
from mrda.photo.source import ImageArray, ImageError, Source, locate

_EXIF_ERRORS = (SyntaxError, struct.error, TypeError, AttributeError, ValueError, LookupError, OverflowError)
_PHOTOMETRIC, _COLOUR_MAP = 0x0106, 0x0140
_WHITE_IS_ZERO = 0
_PNG_BITS = {"1": 1, "L;2": 2, "L;4": 4, "P;1": 1, "P;2": 2, "P;4": 4}  # by the mode of the stored pixels


class UnknownFormatError(ImageError):
    """Pillow does not know the format, or that variant of it."""


def check_file(source: Source) -> tuple[Path, bytes]:
    """Find a photo's file, and read its beginning.

    Raises:
        ImageError: there is no such file, or it is empty or can't be read.
    """
    path = locate(source)
    if not os.path.isfile(path):  # unlike Path's methods, these return False for invalid names
        fault = "it is a folder" if os.path.isdir(path) else "there is no such file"
        raise ImageError(f"cannot read {source}: {fault}")
    with refusing_damage(source), io.FileIO(path) as file:
        head = file.read(kinds.HEAD)
    if not head:
        raise ImageError(f"cannot read {source}: the file is empty")
    return path, head


@contextmanager
def refusing_damage(source: Source) -> Iterator[None]:
    """Turn errors of decoders in the block into an `ImageError` that names the file."""
    start = f"cannot read {source}: "
    try:
        yield
    except MemoryError as error:
        raise ImageError(f"{start}there is not enough memory for a photo of its size") from error
    except Exception as error:  # decoders of damaged files raise whatever they like
        if isinstance(error, ImageError):
            if str(error).startswith(start):
                raise
            raise type(error)(f"{start}{error}") from error
        raise ImageError(f"{start}{reason(error)}") from error


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Open an image file without decoding it; errors of Pillow here and in the block become an `ImageError`."""
    path, head = check_file(source)
    # Pass an open file: given a path, Pillow maps uncompressed pixels into memory and scrambles rotated TIFFs.
    with refusing_damage(source), _BoundedReader(path) as file, _known(file, head) as image:
        _refuse_what_is_misread(image)
        yield image


def _known(file: BinaryIO, head: bytes) -> Image.Image:
    """Open an image; raise UnknownFormatError, which says what it is, if it has no format that Pillow reads."""
    try:
        return open_image(file)
    except Image.UnidentifiedImageError:
        fault = kinds.describe(head) or kinds.describe_jpeg(file)
        raise UnknownFormatError(fault or "it is not an image of a known format") from None


class _BoundedReader(io.BufferedReader):
    """Limits reads to the file's size, because Python allocates as many bytes as a damaged header asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        rest = max(0, self._size - self.tell())
        return super().read(rest if size is None or size < 0 else min(size, rest))


def _refuse_what_is_misread(image: Image.Image) -> None:
    """Refuse a layout that Pillow misreads as 8 bits: uncompressed 16-bit TIFF with one plane per colour."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    deep = _tiff_bits(image) > 8
    planar = image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    uncompressed = image.tag_v2.get(TiffImagePlugin.COMPRESSION, 1) == 1
    if deep and planar and uncompressed and image.mode != "I;16":
        raise ImageError("it stores 16-bit colours uncompressed in separate planes: save it in another way")


def pixels_of(image: Image.Image) -> ImageArray:
    """Decode an image, turn it upright, and return its pixels with the levels that its file means.

    Args:
        image: an image in any of Pillow's modes, best one that has just been opened: what its file says of bits is
            lost with decoding.

    Returns:
        (H, W), or (H, W, C) with C = 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha); uint8, or uint16 for gray of more than
        8 bits.

    Raises:
        ImageError: 32-bit integer or floating-point pixels, whose white level is undefined.
    """
    png = png_bits(image)
    bits = _tiff_bits(image)
    image.load()
    if image.mode == "P" and (palette := _small_palette(image)) is not None:
        image.putpalette(palette)
    # Pillow turns a TIFF while decoding it.
    turn = orientation(image)
    if image.mode.startswith("I") and 8 < bits < 16:
        levels = full_range(np.asarray(image).astype(np.uint16), bits)
    elif image.mode in ("1", "L", "I;16") and isinstance(key := image.info.get("transparency"), int) and png:
        gray = np.asarray(image.convert("L") if image.mode == "1" else image)
        # Levels of fewer bits have been stretched, the key has not.
        white = 65535 if png == 16 else 255
        levels = with_key(gray, (key & (2**png - 1)) * white // (2**png - 1))
    else:
        levels = np.asarray(canonical(image))
    if image.mode.startswith("I") and 8 < bits <= 16 and _is_negative(image):
        levels = 65535 - levels
    return turned(levels, turn)


def canonical(image: Image.Image) -> Image.Image:
    """Convert to the mode that keeps the image's colours: L, LA, I;16, RGB or RGBA.

    Args:
        image: an image in any of Pillow's modes.

    Returns:
        Bilevel becomes L, 16-bit gray I;16, a palette and every other colour space RGB; or LA or RGBA if there is
        transparency of any kind.

    Raises:
        ImageError: 32-bit integer or floating-point pixels, whose white level is undefined.
    """
    if image.mode in ("L", "LA", "I;16", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ImageError("its pixels are 32-bit integers beyond the 16-bit range 0..65535")
        return Image.fromarray(levels.astype(np.uint16))
    if image.mode == "F":
        raise ImageError("its pixels are floating-point numbers of unknown range")
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        return image.convert("LA" if gray else "RGBA")
    return image.convert("L" if gray else "RGB")


def orientation(image: Image.Image) -> int:
    """Return the orientation of an image by its EXIF, otherwise its XMP, 1 to 8; 1 if it is missing or invalid.

    Pillow turns a TIFF while decoding it; its orientation is 1 from then on.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    try:
        value = image.getexif().get(exif.ORIENTATION)
    except _EXIF_ERRORS:
        value = None
    packet = image.info.get("xmp")
    if value is None and packet:
        value = xmp.orientation(packet.encode() if isinstance(packet, str) else packet)
    return int(value) if value is not None and value in range(2, 9) else 1


def turned(pixels: ImageArray, turn: int) -> ImageArray:
    """Turn pixels of the EXIF orientation 1 to 8 upright."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def png_bits(image: Image.Image) -> int:
    """Return the bits per channel of a PNG that has not been decoded yet; 0 for other images."""
    if not isinstance(image, PngImagePlugin.PngImageFile) or not image.tile:
        return 0
    stored = image.tile[0].args
    stored = stored[0] if isinstance(stored, tuple) else stored
    return 16 if "16" in str(stored) else _PNG_BITS.get(str(stored), 8)


def lost_bits(image: Image.Image) -> int:
    """Return the bits per channel of an image of which Pillow keeps 8 only; 0 if it loses none."""
    deep = max(png_bits(image), _tiff_bits(image))
    return deep if deep > 8 and not image.mode.startswith("I") else 0


def _tiff_bits(image: Image.Image) -> int:
    """Return the bits per channel of a TIFF; 0 for other images."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))


def _small_palette(image: Image.Image) -> bytes | None:
    """Return the palette of a TIFF if it has 8 bits per colour, of which Pillow, expecting 16, takes the upper ones."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    levels = np.array(image.tag_v2.get(_COLOUR_MAP, (256,)))
    return None if levels.max() > 255 else levels.astype(np.uint8).reshape(3, -1).T.tobytes()


def _is_negative(image: Image.Image) -> bool:
    """Check for a TIFF whose 0 is white; Pillow inverts it for 8 bits only."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
