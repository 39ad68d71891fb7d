# SPDX-License-Identifier: Apache-2.0
"""The plan of an upscaling: the photos, and the file that each becomes."""

from __future__ import annotations

import itertools
import logging
import os
import re
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mrda.core.files import check_name
from mrda.photo.files import FORMATS
from mrda.photo.images import SKIMAGE_PREFIX, ImageError, Source, source_name
from mrda.photo.kinds import left_out
from mrda.photo.names import folded, suffix_of
from mrda.upscale.finding import Found, find_photos, has_no_path, some
from mrda.upscale.stores import is_stored, without_query

if TYPE_CHECKING:
    from mrda.upscale.manifest import Manifest

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


@dataclass(frozen=True)
class Job:
    """A photo to upscale.

    Attributes:
        source: the photo.
        output: the output folder, by default the photo's own; the empty path if it is in an object store.
        name: the file to write, relative to the output folder.
        format: its format, a key of `mrda.photo.files.FORMATS`.
        fault: the reason if it is known to fail, such as a folder that can't be read.
        beside: the files of all photos whose results would share a name; () if no other has this one's.
        store: URI of the output folder if it is in an object store.
    """

    source: Source
    output: Path
    name: Path
    format: str
    fault: str | None = None
    beside: tuple[Path, ...] = ()
    store: str | None = None

    @property
    def target(self) -> Path:
        """The file to write; in an object store, its name there."""
        return self.output / self.name

    @property
    def address(self) -> str:
        """The file to write, as messages and reports name it."""
        return str(self.target) if self.store is None else f"{self.store}/{self.name.as_posix()}"


def plan(
    photos: Sequence[Source],
    output: Path | str | None,
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
        photos: files, folders (the tree below one is kept in ``output``) and patterns such as ``holiday/*.jpg``; URIs
            of photos and folders in object stores.
        output: the folder to write to, a path or the URI of one in an object store; None writes each result beside its
            photo.
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
    photos_found: list[Found] = []
    named: set[str] = set()
    inputs: set[str] = set()
    by_name: dict[str, Source] = {}
    links: list[Path] = []
    unread: list[Path] = []
    results, ours = None if output is None else Path(_real(output)), result_names(suffix)
    for found in (found for photo in photos for found in find_photos(photo, recursive, links, unread)):
        source, base = found.source, found.base
        real = _real(source)
        # Two symlinks to one photo are two photos; one photo named twice, or through two folders, is one.
        name = os.path.join(*_place(source))
        if name in named:
            continue
        if base is not None and (results is None or results in Path(real).parents):
            if (results is not None and Path(_real(base)) in results.parents) or real in earlier:
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
        real = _real(job.address)
        by_name.pop(real, None)
        if real in inputs or (job.store is None and _file(job.target) in files):
            raise ValueError(
                f"{job.address} is one of the photos to upscale and would be overwritten: choose another -o"
            )
    too_long = [job for job in jobs if job.fault is not None and _is_too_long(job.target)]
    if len(too_long) == len(jobs):
        raise ValueError(too_long[0].fault)
    _check_writable(jobs)
    if os.environ.get("RANK", "0") == "0":  # all processes of a launcher find the same
        if guessed := [source for real, source in by_name.items() if real not in inputs]:
            _log.warning(
                "skipped, because their names look like results of an earlier run (name a file to upscale it): %s",
                some(guessed),
            )
        if told := left_out(set(unread)):
            _log.warning(told)
        if links:
            _log.warning("skipped, because they are symlinks to folders (name a folder to include it): %s", some(links))
        if renamed := [job for job in jobs if job.beside and job.target != job.beside[0]]:
            _log.warning(
                "the photo's suffix is kept in the result's name, because another result has the plain one: %s",
                some([f"{job.source} -> {job.address}" for job in renamed]),
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


def is_done(job: Job, skip_existing: bool, manifest: Manifest | None) -> bool:
    """Check whether `mrda.upscale.batch.upscale_photos` would skip a job.

    An existing result counts only beside those of all photos that it could be mistaken for: it may be another one's,
    from a run before that one had to share its name.
    """
    exists = skip_existing and all(map(os.path.isfile, job.beside or (job.target,)))
    return exists or (manifest is not None and manifest.has(job))


def result_names(suffix: str) -> re.Pattern[str]:
    """Return a pattern of the names of results, without extension: ending in ``suffix`` or, as by default, a scale."""
    scale = r"x\d+(\.\d+)?"
    return re.compile(rf".+_({scale}|{re.escape(suffix)})" if suffix else f".+_{scale}", re.DOTALL)


def _check_writable(jobs: Iterable[Job]) -> None:
    """Raise ValueError if a folder, or the folder that it would be created in, is not writable."""
    for folder in sorted({job.target.parent for job in jobs if job.fault is None and job.store is None}):
        present = next((place for place in (folder, *folder.parents) if os.path.isdir(place)), folder)
        if not os.access(present, os.W_OK | os.X_OK):
            if os.access(present, os.X_OK) and os.statvfs(present).f_flag & os.ST_RDONLY:
                raise ValueError(f"the folder {present} is on a read-only disk: name another with -o")
            raise ValueError(
                f"the folder {present} can't be written to: change its permissions, or name another with -o"
            )


def _distinct(photos: Sequence[Found], output: Path | str | None, suffix: str, ext: str) -> list[Job]:
    """Name the result of each photo, no two alike, in the order of the photos.

    Names are alike that a file system may take for one: those that differ in case or Unicode normalisation alone. Of
    photos whose results would be alike, the one whose own suffix is the result's keeps the name; otherwise the first in
    the alphabet does. The others' names get their suffix, and a number if that is not enough. So names depend on the
    photos alone, not on the order in which they are given.
    """
    jobs = [_job(found, output, suffix, ext) for found in photos]
    alike: dict[tuple[str, str], list[int]] = {}
    for number, job in enumerate(jobs):
        if job.fault is None:
            alike.setdefault(_folded(job), []).append(number)
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
                if _folded(jobs[number]) not in taken:
                    break
            taken.add(_folded(jobs[number]))
        beside = tuple(jobs[number].target for number in group)
        for number in group:
            jobs[number] = replace(jobs[number], beside=beside)
    return [_with_short_name(job) for job in jobs]


def _folded(job: Job) -> tuple[str, str]:
    return job.store or os.path.realpath(job.output), folded(os.fspath(job.name))


def _job(found: Found, output: Path | str | None, suffix: str, ext: str, stem: str | None = None) -> Job:
    source, inside, fault = found.source, found.inside, found.fault
    store = None
    if output is None:
        is_file = not str(source).startswith(SKIMAGE_PREFIX)
        output, inside = Path(source).parent if is_file else Path(), Path()
    elif is_stored(output):
        store, output = without_query(str(output)), Path()
    output = Path(output)
    if fault is not None:
        return Job(source, output, inside / Path(source).name, "png", fault, store=store)
    name = found.stem if stem is None else stem
    if Path(name).name != name:
        raise ValueError(f"{source} would be written outside of the output folder")
    kind = _FORMATS.get(suffix_of(source).lower(), "png") if ext == "auto" else ext
    return Job(source, output, inside / f"{name}{'_' * bool(suffix)}{suffix}{FORMATS[kind]}", kind, store=store)


def _with_short_name(job: Job) -> Job:
    """Add a fault to a job whose result's name is too long."""
    if job.store is not None or job.fault is not None or not os.path.lexists(job.source):
        return job  # a store tells its own limits, and a photo that is missing is told when it is read
    if not _is_too_long(job.target):
        return job
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
    if has_no_path(source):
        return os.path.split(str(source))
    folder, name = os.path.split(os.path.abspath(source))
    return os.path.realpath(folder), name


def _real(source: Source) -> str:
    """Return the real path of a file or folder; what is no file of this machine has none but its name."""
    if is_stored(source):
        return without_query(str(source))
    return str(source) if has_no_path(source) else os.path.realpath(source)
