# SPDX-License-Identifier: Apache-2.0
"""Opens image files with Pillow, in the listed formats only; no other module opens any."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import IO

from PIL import Image

RASTER_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI",
    "SGI", "SUN", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""Pillow's names of the formats that are read, whatever a file's suffix says.

Left out on purpose: EPS, which Pillow has Ghostscript execute; WMF, BUFR, GRIB and HDF5, which other programs draw; and
IPTC, whose content may be any of these.
"""


def open_image(file: IO[bytes], formats: Sequence[str] = RASTER_FORMATS) -> Image.Image:
    """Open an image, without decoding it.

    Args:
        file: an open file; it is read from its beginning.
        formats: the formats that it may have, some of `RASTER_FORMATS`.

    Raises:
        PIL.UnidentifiedImageError: it has none of these formats.
        Exception: any error of a decoder.
    """
    return Image.open(file, formats=_installed(tuple(formats)))


@lru_cache
def _installed(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Select the formats that this Pillow reads, of which `Image.open` fails for others."""
    Image.init()
    return tuple(format for format in formats if format in Image.OPEN)
