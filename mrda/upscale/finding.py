# SPDX-License-Identifier: Apache-2.0
"""Finds photos: files, those of folders, matches of patterns, and those in object stores; none is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mrda.photo.images import SKIMAGE_PREFIX, SUFFIXES, ImageError, Source, source_name
from mrda.photo.kinds import UNREAD, no_image
from mrda.upscale.stores import is_stored, list_files, without_query

_MAGIC = re.compile(r"[*?[]")
_LISTED = 3  # paths that a message lists


class Found(NamedTuple):
    """A photo, its folder relative to the output folder, and the given folder that it was found in, if any."""

    source: Source
    inside: Path
    base: Path | None
    fault: str | None = None

    @property
    def stem(self) -> str:
        """Name of its result, without the suffix that all results get."""
        return source_name(self.source)


def check_named(photos: Sequence[Source]) -> None:
    """Raise ImageError if nothing matches a pattern or all photos are missing, before weights are loaded."""
    missing = [photo for photo in photos if _is_missing(photo)]
    if len(missing) == len(photos):
        raise ImageError(f"cannot read {some(missing)}: there is no such file")


def find_photos(photo: Source, recursive: bool, links: list[Path], unread: list[Path]) -> Iterator[Found]:
    """Yield the photos of a file, folder or pattern.

    Symlinks to folders are appended to ``links``, photos of kinds that are not read to ``unread``.
    """
    text = str(photo)
    if is_stored(photo):
        yield from _stored(text, recursive, unread)
        return
    if text.startswith(SKIMAGE_PREFIX) or os.path.exists(photo) or not _MAGIC.search(text):
        if not os.path.isdir(photo):
            yield Found(photo, Path(), None)
            return
        inside = _inside(Path(photo), recursive, links, unread)
        if not inside:
            raise ImageError(no_image(photo, unread))
        yield from inside
        return
    base, matches = _matches(text)
    for match in matches:
        if match.is_dir():
            yield from (found._replace(base=base) for found in _inside(match, recursive, links, unread))
        else:
            yield Found(match, Path(), base)


def _stored(uri: str, recursive: bool, unread: list[Path]) -> Iterator[Found]:
    """Yield the photos of an object store below a URI, or the one that it names; no object is read."""
    names = list_files(uri, recursive)
    if names is None:
        yield Found(without_query(uri), Path(), None)
        return
    uri = without_query(uri).rstrip("/")
    images = [Path(name) for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    found = sorted(image for image in images if image.suffix.lower() in SUFFIXES)
    kinds = [image for image in images if image.suffix.lower() in UNREAD]
    if not found:
        raise ImageError(no_image(uri, kinds))
    unread += kinds
    yield from (Found(f"{uri}/{image}", image.parent, Path(uri)) for image in found)


def _is_missing(photo: Source) -> bool:
    text = str(photo)
    if has_no_path(photo) or os.path.lexists(photo):
        return False
    return not (_MAGIC.search(text) and _matches(text))


def _matches(pattern: str) -> tuple[Path, list[Path]]:
    """Return the folder that a pattern begins with, and its matches, sorted; ``**`` follows no symlinks."""
    parts = Path(pattern).parts
    # A folder that exists is literal, whatever brackets its name has.
    first = next(
        number
        for number, part in enumerate(parts)
        if _MAGIC.search(part) and not os.path.isdir(Path(*parts[: number + 1]))
    )
    base, rest = Path(*parts[:first]), parts[first:]
    hidden = any(part.startswith(".") for part in rest)
    matches = sorted(
        match
        for match in base.glob(os.path.join(*rest))
        if hidden or not any(part.startswith(".") for part in match.relative_to(base).parts)
    )
    if not matches:
        raise ImageError(f"nothing matches the pattern {pattern}")
    return base, matches


def _inside(folder: Path, recursive: bool, links: list[Path], unread: list[Path]) -> list[Found]:
    found: list[Found] = []
    faults: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=faults.append):
        here, inside = Path(where), Path(where).relative_to(folder)
        if recursive:
            links += (here / name for name in folders if (here / name).is_symlink())
        else:
            folders.clear()
        images = [here / name for name in names if not name.startswith(".")]
        found += (Found(image, inside, folder) for image in images if image.suffix.lower() in SUFFIXES)
        unread += (image for image in images if image.suffix.lower() in UNREAD)
    found.sort(key=lambda image: Path(image.source))
    for error in faults:
        place = Path(error.filename)
        fault = f"cannot read the folder {place}: {error.strerror}"
        found.append(Found(place, place.relative_to(folder).parent, folder, fault))
    return found


def has_no_path(source: Source) -> bool:
    """Check that a source is no file of this machine by a path: a URI, or a photograph of scikit-image."""
    return is_stored(source) or str(source).startswith(SKIMAGE_PREFIX)


def some(paths: Sequence[Source]) -> str:
    """List the first few paths for a message, and the number of the others."""
    rest = len(paths) - _LISTED
    return ", ".join(map(str, paths[:_LISTED])) + (f" and {rest} more" if rest > 0 else "")
