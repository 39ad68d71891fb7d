# SPDX-License-Identifier: Apache-2.0
"""The plan of an upscaling: the photos, and the file that each becomes."""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mrda.photo.files import FORMATS
from mrda.photo.images import SKIMAGE_PREFIX, SUFFIXES, ImageError, Source, source_name
from mrda.photo.kinds import UNREAD, left_out, no_image

_log = logging.getLogger(__name__)

_FORMATS = {
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".jpe": "jpg",
    ".jfif": "jpg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
_MAGIC = re.compile(r"[*?[]")
_LISTED = 3  # paths that a message lists


@dataclass(frozen=True)
class Job:
    """A photo to upscale.

    Attributes:
        source: the photo.
        output: the output folder.
        name: the file to write, relative to the output folder.
        format: its format, a key of `mrda.photo.files.FORMATS`.
        fault: the reason if it is known to fail, such as a folder that can't be read.
    """

    source: Source
    output: Path
    name: Path
    format: str
    fault: str | None = None

    @property
    def target(self) -> Path:
        """The file to write."""
        return self.output / self.name


class _Found(NamedTuple):
    """A photo, its folder relative to the output folder, and the given folder that it was found in, if any."""

    source: Source
    inside: Path
    base: Path | None
    fault: str | None = None


def plan(
    photos: Sequence[Source],
    output: Path,
    *,
    suffix: str,
    ext: str = "auto",
    recursive: bool = False,
    earlier: Collection[str] = (),
) -> list[Job]:
    """Decide which file each photo becomes; no photo is read and nothing is written.

    Files in the output folder are results of an earlier run, not photos, unless they are named themselves: all of them
    if the output folder is inside the folder of photos (or of the pattern), otherwise those that are named like
    results, by ``suffix`` or the scale, or are in ``earlier``. If some were only recognised by name, or symlinks were
    not followed, a warning is logged.

    Args:
        photos: files, folders (the tree below one is kept in ``output``) and patterns such as ``holiday/*.jpg``.
        output: the folder to write to.
        suffix: added to the name after an underscore: ``out`` turns ``photo.png`` into ``photo_out.png``; "" adds
            nothing.
        ext: a key of `mrda.photo.files.FORMATS`, or "auto": the photo's own format, or PNG if it is not one of them.
        recursive: also search subfolders, but do not follow symlinks to folders.
        earlier: real paths of results of earlier runs.

    Raises:
        ImageError: a folder holds no image, nothing matches a pattern, or there are only results of earlier runs.
        ValueError: two photos would be written to one file, or one over a photo or outside of the output folder, or a
            folder is not writable.
    """
    jobs: dict[Path, Job] = {}
    inputs: set[str] = set()
    by_name: dict[str, Source] = {}
    links: list[Path] = []
    unread: list[Path] = []
    results, ours = Path(os.path.realpath(output)), result_names(suffix)
    for source, inside, base, fault in (found for photo in photos for found in _find(photo, recursive, links, unread)):
        real = str(source) if str(source).startswith(SKIMAGE_PREFIX) else os.path.realpath(source)
        if real in inputs:
            continue
        if base is not None and results in Path(real).parents:
            if Path(os.path.realpath(base)) in results.parents or real in earlier:
                continue
            if ours.fullmatch(source_name(source)):
                by_name[real] = source
                continue
        inputs.add(real)
        job = _job(source, inside, output, suffix, ext, fault)
        if job.target in jobs:
            raise ValueError(
                f"{jobs[job.target].source} and {source} would both be written to {job.target}: "
                "give their common folder with -r, or use separate output folders"
            )
        jobs[job.target] = job
    for target in jobs:
        real = os.path.realpath(target)
        by_name.pop(real, None)
        if real in inputs:
            raise ValueError(f"{target} is one of the photos to upscale and would be overwritten: choose another -o")
    if not jobs:
        raise ImageError("there is nothing to upscale: all files found are results of an earlier run")
    _check_writable(jobs.values())
    if os.environ.get("RANK", "0") == "0":  # all processes of a launcher find the same
        if guessed := [source for real, source in by_name.items() if real not in inputs]:
            _log.warning(
                "skipped, because their names look like results of an earlier run (name a file to upscale it): %s",
                _some(guessed),
            )
        if told := left_out(set(unread)):
            _log.warning(told)
        if links:
            _log.warning(
                "skipped, because they are symlinks to folders (name a folder to include it): %s", _some(links)
            )
    return list(jobs.values())


def mine(jobs: Sequence[Job]) -> list[Job]:
    """Select the jobs of this process, if a launcher (torchrun, accelerate launch) has started several.

    A job is assigned to a process by the name of its result relative to the output folder, independently of other jobs
    and of where that folder is mounted.

    Raises:
        ValueError: the environment variables RANK and WORLD_SIZE are not valid.
    """
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise ValueError(f"RANK is {rank!r} and WORLD_SIZE {count!r}, but must be as torchrun sets them, or not set")
    return [job for job in jobs if zlib.crc32(os.fsencode(job.name.as_posix())) % int(count) == int(rank)]


def result_names(suffix: str) -> re.Pattern[str]:
    """Return a pattern of the names of results, without extension: ending in ``suffix`` or, as by default, a scale."""
    scale = r"x\d+(\.\d+)?"
    return re.compile(rf".+_({scale}|{re.escape(suffix)})" if suffix else f".+_{scale}", re.DOTALL)


def _check_writable(jobs: Iterable[Job]) -> None:
    """Raise ValueError if a folder, or the folder that it would be created in, is not writable."""
    for folder in sorted({job.target.parent for job in jobs if job.fault is None}):
        present = next((place for place in (folder, *folder.parents) if os.path.isdir(place)), folder)
        if not os.access(present, os.W_OK | os.X_OK):
            raise ValueError(
                f"the folder {present} can't be written to: change its permissions, or name another with -o"
            )


def _job(source: Source, inside: Path, output: Path, suffix: str, ext: str, fault: str | None) -> Job:
    if fault is not None:
        return Job(source, output, inside / Path(source).name, "png", fault)
    name = source_name(source)
    if Path(name).name != name:
        raise ValueError(f"{source} would be written outside of the output folder")
    kind = _FORMATS.get(Path(str(source)).suffix.lower(), "png") if ext == "auto" else ext
    return Job(source, output, inside / f"{name}{'_' * bool(suffix)}{suffix}{FORMATS[kind]}", kind, fault)


def _find(photo: Source, recursive: bool, links: list[Path], unread: list[Path]) -> Iterator[_Found]:
    """Yield the photos of a file, folder or pattern.

    Symlinks to folders are appended to ``links``, photos of kinds that are not read to ``unread``.
    """
    text = str(photo)
    if text.startswith(SKIMAGE_PREFIX) or os.path.exists(photo) or not _MAGIC.search(text):
        if not os.path.isdir(photo):
            yield _Found(photo, Path(), None)
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
            yield _Found(match, Path(), base)


def _matches(pattern: str) -> tuple[Path, list[Path]]:
    """Return the folder that a pattern begins with, and its matches, sorted; ``**`` follows no symlinks."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
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


def _inside(folder: Path, recursive: bool, links: list[Path], unread: list[Path]) -> list[_Found]:
    found: list[_Found] = []
    faults: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=faults.append):
        here, inside = Path(where), Path(where).relative_to(folder)
        if recursive:
            links += (here / name for name in folders if (here / name).is_symlink())
        else:
            folders.clear()
        images = [here / name for name in names if not name.startswith(".")]
        found += (_Found(image, inside, folder) for image in images if image.suffix.lower() in SUFFIXES)
        unread += (image for image in images if image.suffix.lower() in UNREAD - SUFFIXES)
    found.sort(key=lambda image: Path(image.source))
    for error in faults:
        place = Path(error.filename)
        fault = f"cannot read the folder {place}: {error.strerror}"
        found.append(_Found(place, place.relative_to(folder).parent, folder, fault))
    return found


def _some(paths: Sequence[Source]) -> str:
    rest = len(paths) - _LISTED
    return ", ".join(map(str, paths[:_LISTED])) + (f" and {rest} more" if rest > 0 else "")
