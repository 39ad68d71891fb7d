# SPDX-License-Identifier: Apache-2.0
"""A photograph: pixels, and what its file says of them."""

from __future__ import annotations

from dataclasses import dataclass

from mrda.photo.source import ImageArray


@dataclass(frozen=True)
class Photo:
    """A photograph, turned upright.

    Attributes:
        pixels: (H, W) or (H, W, C), uint8 or uint16; C is 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
        icc: the colour profile.
        exif: the EXIF block, beginning with its byte order, with orientation 1 and without thumbnail.
        xmp: the XMP packet, without orientation and without claims on what is left out.
        dpi: pixels per inch, horizontally and vertically.
        comments: the comments of a JPEG or GIF.
        photoshop: Photoshop's image resources, without thumbnails; one of them holds IPTC.
        colour: name and content of a PNG's chunks on the colour space: cICP, gAMA, cHRM, sRGB.
        text: name and content of a PNG's text chunks.
        lossless: True if the file is a lossless WebP.
        jpeg_quality: the quality, 1 to 100 as libjpeg counts, that a JPEG's quantisation tables stand for; None if it
            is no JPEG.
        notices: things that could not be kept, in a few words each.
    """

    pixels: ImageArray
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comments: tuple[bytes, ...] = ()
    photoshop: bytes | None = None
    colour: tuple[tuple[bytes, bytes], ...] = ()
    text: tuple[tuple[bytes, bytes], ...] = ()
    lossless: bool = False
    jpeg_quality: int | None = None
    notices: tuple[str, ...] = ()
