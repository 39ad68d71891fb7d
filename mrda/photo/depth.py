# SPDX-License-Identifier: Apache-2.0
"""Levels of any number of bits as 8 or 16 bits, in which white is 255 or 65535."""

from __future__ import annotations

import numpy as np

from mrda.photo.source import ImageArray

EXTRA = "`pip install './mrda[formats]'`"


def full_range(levels: ImageArray, bits: int) -> ImageArray:
    """Stretch levels so that 2^bits - 1 becomes white.

    Args:
        levels: unsigned integers below 2^bits.
        bits: 1 to 16.

    Returns:
        uint8 for up to 8 bits and uint16 for more; the nearest levels.
    """
    most = 2**bits - 1
    if most in (255, 65535):
        return levels.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    return stretched(levels, most)


def stretched(levels: ImageArray, most: int) -> ImageArray:
    """Stretch levels so that ``most``, 1 to 65535, and all beyond become white; see `full_range`."""
    white, dtype = (255, np.uint8) if most <= 255 else (65535, np.uint16)
    return ((np.minimum(levels.astype(np.uint32), most) * white + most // 2) // most).astype(dtype)


def straight(pixels: ImageArray) -> ImageArray:
    """Convert premultiplied to straight alpha, which is the last channel."""
    white = float(np.iinfo(pixels.dtype).max)
    alpha = pixels[..., -1:].astype(np.float64)
    colours = np.rint(white * pixels[..., :-1] / np.maximum(alpha, 1))
    return np.concatenate([np.minimum(colours, white).astype(pixels.dtype), pixels[..., -1:]], axis=-1)


def with_key(gray: ImageArray, key: int) -> ImageArray:
    """Append alpha to gray (H, W): transparent where the level is ``key``, opaque elsewhere."""
    white = np.iinfo(gray.dtype).max
    return np.dstack([gray, np.where(gray == key, 0, white).astype(gray.dtype)])
