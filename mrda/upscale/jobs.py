# SPDX-License-Identifier: Apache-2.0
"""The plan of an upscaling: the photos, and the file that each becomes."""

from __future__ import annotations

import itertools
import logging
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mrda.core.files import check_name
from mrda.photo.files import FORMATS
from mrda.photo.images import SKIMAGE_PREFIX, SUFFIXES, ImageError, Source, source_name
from mrda.photo.kinds import UNREAD, left_out, no_image
from mrda.photo.names import folded, suffix_of

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
        beside: the files of all photos whose results would share a name; () if no other has this one's.
    """

    source: Source
    output: Path
    name: Path
    format: str
    fault: str | None = None
    beside: tuple[Path, ...] = ()

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

    @property
    def stem(self) -> str:
        """Name of its result, without the suffix that all results get."""
        return source_name(self.source)


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

    Photos whose results would share a name keep their own suffix in it, ``IMG_1.jpeg`` beside ``IMG_1.jpg`` as
    ``IMG_1_jpeg_x4.jpg``, which a warning tells; see `_distinct`. A photo whose result's name would be too long for the
    file system gets a fault.

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
        ValueError: a photo would be written over a photo or outside of the output folder, a folder is not writable, or
            the names of all results would be too long.
    """
    photos_found: list[_Found] = []
    named: set[str] = set()
    inputs: set[str] = set()
    by_name: dict[str, Source] = {}
    links: list[Path] = []
    unread: list[Path] = []
    results, ours = Path(os.path.realpath(output)), result_names(suffix)
    for found in (found for photo in photos for found in _find(photo, recursive, links, unread)):
        source, base = found.source, found.base
        skimage = str(source).startswith(SKIMAGE_PREFIX)
        real = str(source) if skimage else os.path.realpath(source)
        # Two symlinks to one photo are two photos; one photo named twice, or through two folders, is one.
        name = str(source) if skimage else os.path.join(*_place(source))
        if name in named:
            continue
        if base is not None and results in Path(real).parents:
            if Path(os.path.realpath(base)) in results.parents or real in earlier:
                continue
            if ours.fullmatch(source_name(source)):
                by_name[real] = source
                continue
        named.add(name)
        inputs.add(real)
        photos_found.append(found)
    if not photos_found:
        raise ImageError("there is nothing to upscale: all files found are results of an earlier run")
    jobs = _distinct(photos_found, output, suffix, ext)
    files = {_file(found.source) for found in photos_found} - {None}
    for job in jobs:
        real = os.path.realpath(job.target)
        by_name.pop(real, None)
        if real in inputs or _file(job.target) in files:
            raise ValueError(
                f"{job.target} is one of the photos to upscale and would be overwritten: choose another -o"
            )
    too_long = [job for job in jobs if job.fault is not None and _is_too_long(job.target)]
    if len(too_long) == len(jobs):
        raise ValueError(too_long[0].fault)
    _check_writable(jobs)
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
        if renamed := [job for job in jobs if job.beside and job.target != job.beside[0]]:
            _log.warning(
                "the photo's suffix is kept in the result's name, because another result has the plain one: %s",
                _some([f"{job.source} -> {job.target}" for job in renamed]),
            )
    return jobs


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
            if os.access(present, os.X_OK) and os.statvfs(present).f_flag & os.ST_RDONLY:
                raise ValueError(f"the folder {present} is on a read-only disk: name another with -o")
            raise ValueError(
                f"the folder {present} can't be written to: change its permissions, or name another with -o"
            )


def _distinct(photos: Sequence[_Found], output: Path, suffix: str, ext: str) -> list[Job]:
    """Name the result of each photo, no two alike, in the order of the photos.

    Names are alike that a file system may take for one: those that differ in case or Unicode normalisation alone. Of
    photos whose results would be alike, the one whose own suffix is the result's keeps the name; otherwise the first in
    the alphabet does. The others' names get their suffix, and a number if that is not enough. So names depend on the
    photos alone, not on the order in which they are given.
    """
    jobs = [_job(found, output, suffix, ext) for found in photos]
    alike: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        if job.fault is None:
            alike.setdefault(folded(os.fspath(job.name)), []).append(number)
    taken = set(alike)
    for group in alike.values():
        if len(group) == 1:
            continue
        group.sort(
            key=lambda number: (suffix_of(jobs[number].source) != jobs[number].name.suffix, _place(jobs[number].source))
        )
        for number in group[1:]:
            found = photos[number]
            stem = "_".join(filter(None, (found.stem, suffix_of(found.source).removeprefix("."))))
            for further in itertools.count(1):
                jobs[number] = _job(found, output, suffix, ext, stem if further == 1 else f"{stem}_{further}")
                if folded(os.fspath(jobs[number].name)) not in taken:
                    break
            taken.add(folded(os.fspath(jobs[number].name)))
        beside = tuple(jobs[number].target for number in group)
        for number in group:
            jobs[number] = replace(jobs[number], beside=beside)
    return [_with_short_name(job) for job in jobs]


def _job(found: _Found, output: Path, suffix: str, ext: str, stem: str | None = None) -> Job:
    source, inside, fault = found.source, found.inside, found.fault
    if fault is not None:
        return Job(source, output, inside / Path(source).name, "png", fault)
    name = found.stem if stem is None else stem
    if Path(name).name != name:
        raise ValueError(f"{source} would be written outside of the output folder")
    kind = _FORMATS.get(suffix_of(source).lower(), "png") if ext == "auto" else ext
    return Job(source, output, inside / f"{name}{'_' * bool(suffix)}{suffix}{FORMATS[kind]}", kind)


def _with_short_name(job: Job) -> Job:
    """Add a fault to a job whose result's name is too long."""
    if job.fault is not None or not os.path.lexists(job.source) or not _is_too_long(job.target):
        return job  # a photo that is missing is told when it is read
    length = len(os.fsencode(job.name.name))
    return replace(
        job,
        fault=f"cannot write {job.target}: its name of {length} bytes is too long for the file system: rename the "
        "photo, or shorten the names with --suffix",
    )


def _is_too_long(target: Path) -> bool:
    try:
        check_name(target)
    except OSError:
        return True
    return False


def _file(path: Source) -> tuple[int, ...] | None:
    """Return the numbers of a file and its folder, the same for names that differ but are one to the file system.

    None if there is no such file.
    """
    try:
        found, folder = os.stat(path), os.stat(os.path.dirname(os.path.abspath(path)))
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, folder.st_dev, folder.st_ino


def _place(source: Source) -> tuple[str, str]:
    """Return the real folder of a photo, and its name there, which may be that of a symlink."""
    folder, name = os.path.split(os.path.abspath(source))
    return os.path.realpath(folder), name


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
        unread += (image for image in images if image.suffix.lower() in UNREAD)
    found.sort(key=lambda image: Path(image.source))
    for error in faults:
        place = Path(error.filename)
        fault = f"cannot read the folder {place}: {error.strerror}"
        found.append(_Found(place, place.relative_to(folder).parent, folder, fault))
    return found


def _some(paths: Sequence[Source]) -> str:
    rest = len(paths) - _LISTED
    return ", ".join(map(str, paths[:_LISTED])) + (f" and {rest} more" if rest > 0 else "")
