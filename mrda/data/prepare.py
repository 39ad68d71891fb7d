# SPDX-License-Identifier: Apache-2.0
"""Makes a patch cache from photos."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from mrda.core.checks import check_int
from mrda.core.progress import NoProgress, Progress, track
from mrda.data.cache import INDEX, PIXELS, CachedPhoto, Counts, Index, is_cache
from mrda.data.folders import whole_folder
from mrda.photo.images import ImageError, Source, find_images, read_rgb, to_eight_bits

Pixels = npt.NDArray[np.uint8]


class Prepared(NamedTuple):
    """Outcome for all photos.

    Attributes:
        counts: size of the cache.
        failures: a sentence for each file that could not be read.
        left_out: a sentence for each photo that is a duplicate or too small.
    """

    counts: Counts
    failures: list[str]
    left_out: list[str]


def prepare(
    sources: Iterable[Source],
    cache: str | Path,
    *,
    size: int = 480,
    overlap: int | None = None,
    min_size: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Read photos, cut them into tiles and write these as a cache, with one photo in memory at a time.

    Args:
        sources: photos, and folders of photos with all their subfolders.
        cache: the folder to make; it is written completely or not at all.
        size: largest side of a tile in pixels; sides of photos that are shorter are not cut.
        overlap: pixels that neighbouring tiles share, at least; None is half of ``size``. With an overlap of the HR
            patch size minus one or more, every patch of a photo lies in some tile.
        min_size: photos with a shorter side are left out.
        overwrite: replace an existing cache.
        progress: receives photos.

    Raises:
        TypeError: a number is not an int.
        ValueError: a number is out of range; a source holds no photo; ``cache`` exists already, or should be
            replaced but is not a cache; or no photo can be used.
        OSError: the cache can't be written.
    """
    check_int("size", size)
    check_int("min_size", min_size)
    overlap = size // 2 if overlap is None else overlap
    check_int("overlap", overlap, minimum=0)
    if overlap >= size:
        raise ValueError(f"overlap is {overlap}, but must be less than size, which is {size}")
    check_target(cache, overwrite)
    photos = find_images(sources, recursive=True)
    if not photos:
        raise ValueError("sources must name at least one photo or folder of photos, it is empty")
    with whole_folder(cache, replace=overwrite) as folder:
        with open(folder / PIXELS, "wb") as file:
            kept, failures, left_out = _write(
                file, track(photos, len(photos), "preparing", progress or NoProgress()), size, overlap, min_size
            )
        if not kept:
            raise ValueError(f"none of the {len(photos)} photos can be used, for instance: {(failures or left_out)[0]}")
        tiles, length = sum(len(photo.tiles) for photo in kept), sum(photo.length() for photo in kept)
        counts = Counts(photos=len(kept), tiles=tiles, bytes=length)
        index = Index(size=size, overlap=overlap, counts=counts, photos=kept)
        (folder / INDEX).write_text(index.model_dump_json(), encoding="utf-8")
    return Prepared(counts, failures, left_out)


def check_target(cache: str | Path, overwrite: bool) -> None:
    """Raise ValueError unless a cache may be created at this place."""
    if not os.path.lexists(cache):
        return
    if not overwrite:
        raise ValueError(f"{cache} exists already: give --overwrite to replace it")
    if not is_cache(cache) or set(os.listdir(cache)) - {INDEX, PIXELS}:
        raise ValueError(f"{cache} is not a patch cache, so --overwrite does not replace it: name another folder")


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """List the starts of tiles that cover an axis: every ``size - overlap`` pixels, the last one aligned to the end."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def fingerprint(image: Pixels) -> str:
    """Return the SHA-256 of a photo's size and decoded pixels, the same for one picture in any lossless format."""
    height, width, _ = image.shape
    return hashlib.sha256(f"{height}x{width} ".encode() + image.tobytes()).hexdigest()


def _write(
    file: BinaryIO, photos: Iterable[Source], size: int, overlap: int, min_size: int
) -> tuple[list[CachedPhoto], list[str], list[str]]:
    """Write the tiles of all photos; returns those written, failures, and reasons for leaving photos out."""
    kept: dict[str, CachedPhoto] = {}
    failures: list[str] = []
    left_out: list[str] = []
    for source in photos:
        try:
            image = to_eight_bits(read_rgb(source))
        except ImageError as error:
            failures.append(str(error))
            continue
        height, width, _ = image.shape
        if min(height, width) < min_size:
            left_out.append(f"{source} is {width} x {height} px, smaller than {min_size}")
            continue
        digest = fingerprint(image)
        if digest in kept:
            left_out.append(f"{source} has the same pixels as {kept[digest].name}")
            continue
        tiles = list(_tiles(height, width, size, overlap))
        kept[digest] = CachedPhoto(
            name=str(source), sha256=digest, height=height, width=width, offset=file.tell(), tiles=tiles
        )
        for top, left, tall, wide in tiles:
            file.write(image[top : top + tall, left : left + wide].tobytes())
    return list(kept.values()), failures, left_out


def _tiles(height: int, width: int, size: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (top, left, height, width) of the tiles of a photo."""
    for top in tile_starts(height, size, overlap):
        for left in tile_starts(width, size, overlap):
            yield top, left, min(size, height), min(size, width)
