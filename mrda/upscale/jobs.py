"""Which photos are upscaled into which files."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mrda.photo.files import FORMATS
from mrda.photo.images import SKIMAGE_PREFIX, SUFFIXES, ImageError, Source, source_name
from mrda.upscale.upscaler import warn

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
_TOLD = 3  # paths that a notice names


@dataclass(frozen=True)
class Job:
    """A photo to upscale.

    Attributes:
        source: where it is.
        output: the output folder.
        name: the file to write, from there on.
        format: of that, a key of `mrda.photo.files.FORMATS`.
        fault: why nothing can come of it, as is known beforehand of a folder that can't be read.
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
    """A photo, the folder below the output folder that it belongs to, and the folder it was found in, if in one."""

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
    notify: Callable[[str], None] = warn,
) -> list[Job]:
    """Say which file each photo becomes; nothing is read or written.

    What lies in the output folder is no photo, but the result of an earlier run, unless it is named itself: everything
    if the output folder is inside the folder of photos (or of the pattern), else what is named as results are, by
    ``suffix`` or the scale, or is in ``earlier``.

    Args:
        photos: files, folders (the tree below one is kept in ``output``) and patterns such as ``holiday/*.jpg``.
        output: the folder to write to.
        suffix: what follows the name, after an underscore: ``out`` makes ``photo_out.png`` of ``photo.png``; empty adds
            nothing.
        ext: a key of `mrda.photo.files.FORMATS`, or "auto": that of the photo, PNG if it is none of them.
        recursive: also look into the folders' folders, but follow no symlinks to folders.
        earlier: real paths of results of earlier runs.
        notify: told, in a sentence each, what else was left out.

    Raises:
        ImageError: a folder holds no image, nothing matches a pattern, or there are only results of earlier runs.
        ValueError: two photos would be written to one file, or one over a photo or outside of the output folder, or a
            folder can't be written to.
    """
    jobs: dict[Path, Job] = {}
    inputs: set[str] = set()
    by_name: dict[str, Source] = {}
    links: list[Path] = []
    results, ours = Path(os.path.realpath(output)), result_names(suffix)
    for source, inside, base, fault in (found for photo in photos for found in _find(photo, recursive, links)):
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
                "give their common folder with -r, or separate output folders"
            )
        jobs[job.target] = job
    for target in jobs:
        real = os.path.realpath(target)
        by_name.pop(real, None)
        if real in inputs:
            raise ValueError(f"{target} is one of the photos to upscale, and would be overwritten")
    if not jobs:
        raise ImageError("there is nothing to upscale: all that was found are results of an earlier run")
    _check_writable(jobs.values())
    if guessed := [source for real, source in by_name.items() if real not in inputs]:
        notify(f"by their names results of an earlier run, and left out unless named themselves: {_some(guessed)}")
    if links:
        notify(f"symlinks to folders, and not followed unless named themselves: {_some(links)}")
    return list(jobs.values())


def mine(jobs: Sequence[Job]) -> list[Job]:
    """Those of this process, where a launcher (torchrun, accelerate launch) has started several.

    A job falls to a process by the name of its result within the output folder, whatever other jobs there are and
    wherever that folder is mounted.

    Raises:
        ValueError: RANK and WORLD_SIZE in the environment are not what a launcher sets.
    """
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise ValueError(f"RANK is {rank!r} and WORLD_SIZE {count!r}, but must be as torchrun sets them, or not set")
    return [job for job in jobs if zlib.crc32(os.fsencode(job.name.as_posix())) % int(count) == int(rank)]


def result_names(suffix: str) -> re.Pattern[str]:
    """What the names of results look like, without the format's suffix: with ``suffix``, or the scale as by default."""
    scale = r"x\d+(\.\d+)?"
    return re.compile(rf".+_({scale}|{re.escape(suffix)})" if suffix else f".+_{scale}", re.DOTALL)


def _check_writable(jobs: Iterable[Job]) -> None:
    """Raise ValueError where a folder, or what it would be made in, is not to be written to."""
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


def _find(photo: Source, recursive: bool, links: list[Path]) -> Iterator[_Found]:
    """What a file, folder or pattern stands for; ``links`` takes up the symlinks to folders that were met."""
    text = str(photo)
    if text.startswith(SKIMAGE_PREFIX) or os.path.exists(photo) or not _MAGIC.search(text):
        if not os.path.isdir(photo):
            yield _Found(photo, Path(), None)
            return
        inside = _inside(Path(photo), recursive, links)
        if not inside:
            raise ImageError(f"the folder {photo} holds no image ({', '.join(sorted(SUFFIXES))})")
        yield from inside
        return
    base, matches = _matches(text)
    for match in matches:
        if match.is_dir():
            yield from (found._replace(base=base) for found in _inside(match, recursive, links))
        else:
            yield _Found(match, Path(), base)


def _matches(pattern: str) -> tuple[Path, list[Path]]:
    """The folder that a pattern begins with, and what matches it, sorted; ``**`` follows no symlinks."""
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


def _inside(folder: Path, recursive: bool, links: list[Path]) -> list[_Found]:
    found: list[_Found] = []
    faults: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=faults.append):
        here, inside = Path(where), Path(where).relative_to(folder)
        if recursive:
            links += (here / name for name in folders if (here / name).is_symlink())
        else:
            folders.clear()
        images = (here / name for name in names if not name.startswith("."))
        found += (_Found(image, inside, folder) for image in images if image.suffix.lower() in SUFFIXES)
    found.sort(key=lambda image: Path(image.source))
    for error in faults:
        place = Path(error.filename)
        fault = f"cannot read the folder {place}: {error.strerror}"
        found.append(_Found(place, place.relative_to(folder).parent, folder, fault))
    return found


def _some(paths: Sequence[Source]) -> str:
    rest = len(paths) - _TOLD
    return ", ".join(map(str, paths[:_TOLD])) + (f" and {rest} more" if rest > 0 else "")
