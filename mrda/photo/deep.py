# SPDX-License-Identifier: Apache-2.0
"""Reads 16-bit colour, which Pillow reduces to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from mrda.photo.images import ImageArray, ImageError, Source, locate

_UNUSUAL = "16-bit colours were reduced to 8 bits, because their format is unusual"
_NO_ALPHA, _ALPHA, _PREMULTIPLIED = (), (2,), (1,)  # TIFF's extra samples


def is_deep(source: Source, image: Image.Image) -> bool:
    """Check whether Pillow has dropped bits or transparency of a 16-bit image, as it does with all but plain gray."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return max(bits) == 16 and len(bits) > 1
    if image.format != "PNG" or not (image.mode in ("RGB", "RGBA", "LA") or _is_keyed_gray(image)):
        return False
    with locate(source).open("rb") as file:
        head = file.read(25)
    return len(head) == 25 and head[24] == 16


def read_deep(source: Source, image: Image.Image) -> tuple[ImageArray | None, str]:
    """Read (H, W, C) uint16 as stored, C = 2, 3 or 4; or return None and the reason.

    Raises:
        ImageError: the file is damaged.
    """
    try:
        import imagecodecs
    except ModuleNotFoundError:
        keyed = _is_keyed_gray(image)
        lost, kept = ("transparency was lost", "it") if keyed else ("16-bit colours were reduced to 8 bits", "them")
        return None, f"{lost}: `pip install 'mrda-kernels[deep]'` keeps {kept}"
    path = locate(source)
    try:
        pixels = imagecodecs.png_decode(path.read_bytes()) if image.format == "PNG" else _read_tiff(path)
    except (
        imagecodecs.PngError,
        tifffile.TiffFileError,
        ValueError,
        RuntimeError,
        LookupError,
    ) as error:
        raise ImageError(f"its 16-bit colours are damaged: {error}") from error
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in (2, 3, 4):
        return None, _UNUSUAL
    return pixels, ""


def _is_keyed_gray(image: Image.Image) -> bool:
    """Check whether one level of 16-bit gray means transparent."""
    return image.mode.startswith("I") and "transparency" in image.info


def _read_tiff(path: Any) -> ImageArray | None:
    """Read the first page, or return None if its layout is unusual."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        extra = tuple(int(sample) for sample in page.extrasamples)
        if page.photometric not in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK):
            return None
        if extra not in (_NO_ALPHA, _ALPHA, _PREMULTIPLIED):
            return None
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            pixels = np.moveaxis(pixels, 0, -1)
    colours = 3 if page.photometric == tifffile.PHOTOMETRIC.RGB else 1
    if pixels.ndim != 3 or pixels.shape[2] != colours + len(extra) or pixels.dtype != np.uint16:
        return None
    return _straight(pixels) if extra == _PREMULTIPLIED else pixels


def _straight(pixels: ImageArray) -> ImageArray:
    """Convert premultiplied to straight alpha."""
    alpha = pixels[..., -1:].astype(np.float64)
    colours = np.rint(65535.0 * pixels[..., :-1] / np.maximum(alpha, 1))
    return np.concatenate([np.minimum(colours, 65535).astype(np.uint16), pixels[..., -1:]], axis=-1)
