# SPDX-License-Identifier: Apache-2.0
"""Measures what noise and JPEG compression have left in a photo, from its pixels and its quantisation tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrda.photo.photo import Photo

Plane = npt.NDArray[np.floating]

SIDE = 2048
"""Rows and columns of the middle of a photo that are looked at."""
BLOCK = 8
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

_DARK, _BRIGHT = 8.0, 247.0  # beyond these means of a block, noise may be cut off
_FLATTEST, _MOST_ALIKE = 10, 25  # percentiles of blocks, by which detail is told from noise
_OF_NOISE = 0.81
"""Values of these percentiles for white noise of standard deviation 1, because the least of several is too low."""
_LUMA_OF_NOISE = float(_OF_NOISE * np.sqrt(np.square(_LUMA).sum()))
_SURE = 10.0  # noise that luma shows apart from fine texture, as a standard deviation, of 255

_BLOCKS_SEEN = 0.8  # steps at the block borders, in levels, that no photo without them has
_QUALITY_PER_STEP = 33.0  # that each level of such a step costs
_NO_BLOCKS = 90  # quality of tables from which visible blocks must come from an earlier compression


@dataclass(frozen=True)
class Traces:
    """Signs of noise and compression in a photo.

    Attributes:
        noise: standard deviation of the noise, of 255.
        jpeg_quality: quality of the JPEG compression, 1 to 100 as libjpeg counts: by the quantisation tables, or, if
            these could not leave blocks, by the blocks in the pixels; 100 if there is no sign of any.
    """

    noise: float
    jpeg_quality: float


def traces_of(photo: Photo) -> Traces:
    """Measure the noise and the JPEG compression of a photo."""
    colour = _middle(photo)
    luma = colour @ _LUMA if colour.shape[2] == 3 else colour[..., 0]
    return Traces(float(_noise(colour, luma)), _quality(photo.jpeg_quality, luma))


def _middle(photo: Photo) -> Plane:
    """Return the middle of a photo (H, W, 1 | 3), in levels of 0 to 255, without alpha."""
    pixels = np.atleast_3d(photo.pixels)
    top, left = (max(0, side - SIDE) // (2 * BLOCK) * BLOCK for side in pixels.shape[:2])
    pixels = pixels[top : top + SIDE, left : left + SIDE, : 1 if pixels.shape[2] < 3 else 3]
    levels = pixels.astype(np.float32)
    return levels if pixels.dtype == np.uint8 else levels / 257


def _noise(colour: Plane, luma: Plane) -> float:
    """Estimate the noise.

    Detail is much the same in all channels, noise is not: what the differences of channels have at the highest
    frequencies is noise. JPEG takes it from them, and gray has no channels: there luma must do, in which strong noise
    alone is told from texture.
    """
    if min(luma.shape) < 2 * BLOCK:
        return 0.0
    is_gray = colour.shape[2] == 1 or (np.ptp(colour, axis=2) < 1).mean() > 0.99
    flattest = _percentile(_block_rms(_highest(luma))[_unclipped(luma)], _FLATTEST)
    noise = flattest / (_OF_NOISE if is_gray else _LUMA_OF_NOISE)
    if is_gray:
        return noise if noise > _SURE else 0.0
    differences = [_block_rms(_highest(colour[..., 1] - colour[..., other])) for other in (0, 2)]
    unlike = _percentile(np.minimum(*differences), _MOST_ALIKE) / (np.sqrt(2) * _OF_NOISE)
    return max(unlike, noise if noise > _SURE else 0.0)


def _highest(plane: Plane) -> Plane:
    """Filter the highest frequencies out of a plane; white noise keeps its standard deviation."""
    for axis in (0, 1):
        lines = np.moveaxis(plane, axis, 0)
        plane = np.moveaxis(lines[:-2] - 2 * lines[1:-1] + lines[2:], 0, axis)
    return plane / 6


def _blocks(plane: Plane) -> Plane:
    """Split a plane into blocks (N, BLOCK * BLOCK); rows and columns that are left over are dropped."""
    rows, columns = (side // BLOCK for side in plane.shape)
    blocks = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return blocks.swapaxes(1, 2).reshape(-1, BLOCK * BLOCK)


def _block_rms(plane: Plane) -> Plane:
    return np.sqrt(np.square(_blocks(plane)).mean(axis=1))


def _unclipped(luma: Plane) -> npt.NDArray[np.bool_]:
    means = _blocks(luma[1:-1, 1:-1]).mean(axis=1)
    return (means > _DARK) & (means < _BRIGHT)


def _percentile(values: Plane, percent: float) -> float:
    return float(np.percentile(values, percent)) if values.size else 0.0


def _quality(tables: int | None, luma: Plane) -> float:
    quality = 100.0 if tables is None else float(tables)
    if quality < _NO_BLOCKS or (steps := _steps(luma)) < _BLOCKS_SEEN:
        return quality
    return max(1.0, 100 - _QUALITY_PER_STEP * steps)


def _steps(luma: Plane) -> float:
    """Return by how many levels neighbours across the borders of JPEG's blocks differ more than others."""
    if min(luma.shape) < 4 * BLOCK:
        return 0.0
    steps = []
    for plane in (luma, luma.T):
        differences = np.abs(np.diff(plane, axis=1))
        excess = differences[:, 1:-1] - (differences[:, :-2] + differences[:, 2:]) / 2
        excess = excess.clip(-BLOCK, BLOCK)  # so that edges of the picture count little
        by_phase = [excess[:, phase::BLOCK].mean() for phase in range(BLOCK)]
        steps.append(max(by_phase) - np.median(by_phase))
    return float(np.mean(steps))
