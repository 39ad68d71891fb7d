# SPDX-License-Identifier: Apache-2.0
"""Reads TIFF files: finds the photo among pages and thumbnails, and its pixels where Pillow would lose bits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from mrda.core.faults import reason
from mrda.photo.depth import EXTRA, full_range, straight
from mrda.photo.ifd import Directory, IFDError, TagFile
from mrda.photo.source import ImageArray, ImageError

RAW = (
    "it is a camera's raw file: develop it to TIFF or JPEG with the camera's program, darktable or RawTherapee, and "
    "upscale that"
)
_MOST_PAGES, _MOST_ENTRIES = 10_000, 200_000  # that are looked at
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 259, 262, 277
_PLANES, _SUB_DIRECTORIES, _EXTRA_SAMPLES, _FORMAT, _DNG = 284, 330, 338, 339, 50706
_NEW_SUBFILE, _SUBFILE = 254, 255
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}
_SENSORS = (32803, 34892)  # colour filter array, and linear raw
_JPEGS = (6, 7)
_LARGEST_TILE = 2**22  # values
_ALPHA, _PREMULTIPLIED = 2, 1
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # damage becomes an ImageError
_FAULTS = (tifffile.TiffFileError, ValueError, RuntimeError, LookupError, TypeError, ArithmeticError, AttributeError)


class TIFF:
    """The photo in an open TIFF file.

    Args:
        file: the file; kept open by the caller.

    Attributes:
        tags: the file's tags.
        directory: the directory of the photo.
        offset: its offset.
        is_first: True if that is the file's first directory, which is the one that Pillow reads.
        pages: number of pages that are no thumbnails.
        width: width in pixels, as stored.
        height: height in pixels, as stored.
        bits: bits per channel.

    Raises:
        ImageError: it is a camera's raw file, or its levels have no defined white.
        IFDError: the file is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.tags = TagFile(file)
        if not self.tags.big and self.tags.read(0, 10)[8:] == b"CR":
            raise ImageError(RAW)
        pages = list(self._pages())
        if not pages:
            raise IFDError("it has no page")
        first = pages[0]
        below = self.tags.integers(first[1].get(_SUB_DIRECTORIES))
        inner = [(place, self.tags.directory(place)) for place in below[:64] if place]
        if first[1].get(_DNG) is not None or any(
            self.tags.integer(directory, _PHOTOMETRIC) in _SENSORS for _, directory in (*pages, *inner)
        ):
            raise ImageError(RAW)
        whole = [page for page in pages if not self._is_part(page[1])]
        largest = max(inner, key=lambda page: self._area(page[1]), default=None)
        chosen = first
        if largest is not None and self._area(largest[1]) > self._area(first[1]):
            chosen = largest
        elif self._is_part(first[1]) and whole:
            chosen = whole[0]
        self.pages = max(1, len(whole))
        self.offset, self.directory = chosen
        self.is_first = self.offset == first[0]
        self.width = self._number(_WIDTH)
        self.height = self._number(_HEIGHT)
        bits = set(self.tags.integers(self.directory.get(_BITS), (1,)))
        self.bits = max(bits, default=1)
        self._photometric = self._number(_PHOTOMETRIC, _BLACK_IS_ZERO)
        self._check_levels(bits)

    def _pages(self) -> Iterator[tuple[int, Directory]]:
        """Yield the directories of the main chain, as far as it is intact."""
        seen: set[int] = set()
        place, entries = self.tags.first, 0
        while place and place not in seen and len(seen) < _MOST_PAGES and entries < _MOST_ENTRIES:
            seen.add(place)
            try:
                directory = self.tags.directory(place)
            except IFDError:
                if len(seen) == 1:
                    raise
                return
            yield place, directory
            entries += len(directory.entries)
            place = directory.next

    def _is_part(self, directory: Directory) -> bool:
        """Check whether a page is a smaller version or a mask of another."""
        return bool(self.tags.integer(directory, _NEW_SUBFILE) & 5) or self.tags.integer(directory, _SUBFILE) == 2

    def _area(self, directory: Directory) -> int:
        return self.tags.integer(directory, _WIDTH) * self.tags.integer(directory, _HEIGHT)

    def _number(self, tag: int, default: int = 0) -> int:
        return self.tags.integer(self.directory, tag, default)

    def _check_levels(self, bits: set[int]) -> None:
        formats = set(self.tags.integers(self.directory.get(_FORMAT), (1,)))
        if 3 in formats:
            raise ImageError("its pixels are floating-point numbers of unknown range: convert it to 16 bits")
        if self.bits > 16:
            raise ImageError(f"its pixels are {self.bits}-bit integers of unknown range: convert it to 16 bits")
        if 2 in formats:
            raise ImageError("its pixels are signed integers, whose white is undefined: convert it to unsigned ones")
        if formats & {5, 6}:
            raise ImageError("its pixels are complex numbers, and no photo")
        if len(bits) > 1:
            raise ImageError("its channels have different numbers of bits: save it in another way")
        if self._photometric == _YCBCR and self._number(_COMPRESSION, 1) == 1:
            raise ImageError("it stores YCbCr without compression, which is not read: save it as RGB")

    @property
    def for_pillow(self) -> bool:
        """True if Pillow reads the photo without loss, or loses bits of a layout that nothing else here reads."""
        planes = self._number(_PLANES, 1) == 2 and self._number(_SAMPLES, 1) == 2
        return self.is_first and not planes and (self.bits <= 8 or self._photometric not in _COLOURS)

    @property
    def has_alpha(self) -> bool:
        """True if a channel is declared as alpha."""
        extra = self.tags.integers(self.directory.get(_EXTRA_SAMPLES))
        return extra[:1] in ((_ALPHA,), (_PREMULTIPLIED,))

    def read(self, path: Path) -> tuple[ImageArray, tuple[str, ...]]:
        """Read the pixels as stored: (H, W) or (H, W, C), and notices.

        Raises:
            ImageError: the file is damaged, its layout is unusual, or its compression needs imagecodecs.
        """
        samples = self._number(_SAMPLES, 1)
        colours = _COLOURS.get(self._photometric)
        jpeg = self._number(_COMPRESSION) in _JPEGS
        if colours is None and self._photometric == _YCBCR and jpeg and samples == 3:
            colours = 3  # the decoder converts it
        if colours is None or samples < colours or samples > 16:
            raise ImageError(
                f"its layout is not read ({samples} channels of {self.bits} bits, photometric interpretation "
                f"{self._photometric}): save it as RGB or gray"
            )
        try:
            with tifffile.TiffFile(path) as file:
                file.filehandle.seek(self.offset)
                page = tifffile.TiffPage(file, 0)
                if math.prod(page.shape) != self.width * self.height * samples:
                    raise ImageError("its size is damaged")
                if math.prod(page.chunks) > max(_LARGEST_TILE, 4 * math.prod(page.shape)):
                    raise ImageError("the size of its tiles is damaged")
                pixels = page.asarray()
        except ImageError:
            raise
        except _FAULTS as error:
            if "imagecodecs" in str(error):
                raise MissingCodecError(f"its compression is not read without imagecodecs: {EXTRA}") from error
            raise ImageError(f"its {self.bits}-bit pixels are damaged: {reason(error)}") from error
        if self._number(_PLANES, 1) == 2 and samples > 1 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        shape = (self.height, self.width) if samples == 1 else (self.height, self.width, samples)
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
        if pixels.shape != shape or pixels.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
            raise ImageError(f"its layout is not read (pixels of shape {pixels.shape}): save it as RGB or gray")
        pixels = full_range(pixels, self.bits)
        if self._photometric == _WHITE_IS_ZERO:
            white = np.iinfo(pixels.dtype).max
            pixels = white - pixels if samples == 1 else np.dstack([white - pixels[..., :1], pixels[..., 1:]])
        return self._with_alpha(pixels, colours, samples)

    def _with_alpha(self, pixels: ImageArray, colours: int, samples: int) -> tuple[ImageArray, tuple[str, ...]]:
        if samples == colours:
            return pixels, ()
        extra = self.tags.integers(self.directory.get(_EXTRA_SAMPLES))
        if extra[:1] == (_PREMULTIPLIED,):
            pixels, kept = straight(pixels[..., : colours + 1]), colours + 1
        elif extra[:1] == (_ALPHA,):
            pixels, kept = pixels[..., : colours + 1], colours + 1
        else:
            pixels, kept = pixels[..., :colours], colours
        if pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        lost = samples - kept
        told = f"left out: {lost} further {'channel' if lost == 1 else 'channels'}, which are neither colour nor alpha"
        return pixels, (told.replace("which are", "which is") if lost == 1 else told,) if lost else ()


class MissingCodecError(ImageError):
    """A TIFF's compression needs imagecodecs, which is not installed."""


def resolution(tags: TagFile, directory: Directory) -> tuple[float, float] | None:
    """Return pixels per inch horizontally and vertically; None if they are not given."""
    values = []
    for tag in (282, 283):
        entry = directory.get(tag)
        if entry is None or entry.type != 5 or entry.number != 1:
            return None
        numerator, denominator = tags.unpack("II", entry.offset)
        if not denominator:
            return None
        values.append(numerator / denominator)
    unit = {2: 1.0, 3: 2.54}.get(tags.integer(directory, 296, 2))
    return None if unit is None else (unit * values[0], unit * values[1])
