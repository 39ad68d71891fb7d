# SPDX-License-Identifier: Apache-2.0
"""The patch cache: tiles of photos as raw pixels, in one file that training maps into memory.

A cache is a folder of two files. ``pixels.u8`` holds the tiles one after the other, each (height, width, 3) in uint8
without padding. ``index.json`` lists their positions and the photos that they come from, see `Index`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

INDEX, PIXELS = "index.json", "pixels.u8"
VERSION = 1


class CacheError(ValueError):
    """A patch cache can't be used; the message is one sentence that names the cache."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CachedPhoto(_Part):
    """One photo of a cache.

    Attributes:
        name: the source it was read from.
        sha256: SHA-256 of its decoded 8-bit pixels, see `mrda.data.prepare.fingerprint`.
        height: height in pixels.
        width: width in pixels.
        offset: first byte of its first tile in ``pixels.u8``; the others follow.
        tiles: (top, left, height, width) of each tile, in pixels of the photo.
    """

    name: str
    sha256: str
    height: PositiveInt
    width: PositiveInt
    offset: NonNegativeInt
    tiles: Annotated[list[tuple[NonNegativeInt, NonNegativeInt, PositiveInt, PositiveInt]], Field(min_length=1)]

    def length(self) -> int:
        """Return the number of bytes of all its tiles in ``pixels.u8``."""
        return sum(3 * height * width for _, _, height, width in self.tiles)


class Counts(_Part):
    """Size of a cache."""

    photos: PositiveInt
    tiles: PositiveInt
    bytes: PositiveInt


class Index(_Part):
    """Content of ``index.json``.

    Attributes:
        format: identifies the file format.
        version: version of the format; this one is 1.
        size: largest side of a tile.
        overlap: pixels that neighbouring tiles share, at least.
        counts: numbers of photos, tiles, and bytes in ``pixels.u8``.
        photos: in the order of their pixels.
    """

    format: Literal["mrda patch cache"] = "mrda patch cache"
    version: int = VERSION
    size: PositiveInt
    overlap: NonNegativeInt
    counts: Counts
    photos: Annotated[list[CachedPhoto], Field(min_length=1)]


def is_cache(path: str | Path) -> bool:
    """Check that ``path`` is a folder with a cache's pixels, complete or not."""
    return os.path.isfile(os.path.join(path, PIXELS))


class PatchCache:
    """A cache, open for reading; its pixels are mapped into memory, not loaded.

    Args:
        folder: the cache.

    Raises:
        CacheError: a file is missing or damaged, the two don't match, or a later version of mrda wrote them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.size = index.size
        self.names = [photo.name for photo in index.photos]
        self._areas = [photo.height * photo.width for photo in index.photos]
        self._check(index)
        shapes = [tile[2:] for photo in index.photos for tile in photo.tiles]
        self._shapes = np.array(shapes, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(3 * self._shapes.prod(axis=1))])
        self._first_tiles = np.concatenate([[0], np.cumsum([len(photo.tiles) for photo in index.photos])])
        self._pixels = np.asarray(np.memmap(self.folder / PIXELS, np.uint8, mode="r"))

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    def tiles(self, photo: int) -> int:
        """Number of tiles of a photo."""
        return int(self._first_tiles[photo + 1] - self._first_tiles[photo])

    def pixels(self, photo: int) -> int:
        """Number of pixels of a photo; pixels in several tiles count once."""
        return self._areas[photo]

    def tile(self, photo: int, number: int) -> npt.NDArray[np.uint8]:
        """Return a tile of a photo: (height, width, 3), a read-only view of the file."""
        tile = self._first_tiles[photo] + number
        start, stop = self._starts[tile : tile + 2]
        return self._pixels[start:stop].reshape(*self._shapes[tile], 3)

    def check_tiles(self, size: int) -> None:
        """Check that photos were cut into tiles of at least ``size`` pixels per side.

        Raises:
            CacheError: the tiles are smaller.
        """
        if self.size < size:
            raise CacheError(
                f"the patch cache {self.folder} has tiles of {self.size} px, but the HR patches are {size} px wide: "
                f"make it again with `mrda data prepare --size {size}` or more"
            )

    def check_fits(self, size: int) -> None:
        """Check that patches of ``size`` pixels per side fit into every tile.

        Raises:
            CacheError: a tile is too small.
        """
        smallest = self._shapes.min(axis=1)
        if smallest.min() >= size:
            return
        self.check_tiles(size)
        photo = int(np.searchsorted(self._first_tiles, smallest.argmin(), side="right")) - 1
        height, width = self._shapes[smallest.argmin()]
        raise CacheError(
            f"'{self.names[photo]}' in the patch cache {self.folder} has only {width} x {height} px, but the HR "
            f"patches have {size} x {size} px: make the cache again with `mrda data prepare --min-size {size}`"
        )

    def _check(self, index: Index) -> None:
        """Raise CacheError unless index and pixels match."""
        end = 0
        for photo in index.photos:
            if photo.offset != end:
                raise _damaged(self.folder, f"the tiles of '{photo.name}' are not in their place")
            end += photo.length()
        counts = Counts(photos=len(index.photos), tiles=sum(len(photo.tiles) for photo in index.photos), bytes=end)
        if counts != index.counts:
            raise _damaged(self.folder, f"the counts in {INDEX} do not match its list of photos")
        length = (self.folder / PIXELS).stat().st_size
        if length != end:
            raise _damaged(self.folder, f"{PIXELS} has {length:,} bytes instead of {end:,}")


def _read_index(folder: Path) -> Index:
    try:
        text = (folder / INDEX).read_bytes()
    except OSError as error:
        raise _damaged(folder, f"{INDEX} can't be read ({error.strerror})") from None
    try:
        tree = json.loads(text)
        version = tree.get("version") if isinstance(tree, dict) else None
        if isinstance(version, int) and version > VERSION:  # its other fields may have another meaning
            raise CacheError(
                f"the patch cache {folder} has format {version}, but this version of mrda reads at most {VERSION}: "
                "upgrade mrda"
            )
        return Index.model_validate(tree)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        fault = f"has an invalid value at '{where}'" if where else "is not a JSON object"
        raise _damaged(folder, f"{INDEX} {fault}") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise _damaged(folder, f"{INDEX} is not valid JSON") from None


def _damaged(folder: Path, why: str) -> CacheError:
    return CacheError(f"the patch cache {folder} is damaged: {why}; make it again with `mrda data prepare`")
