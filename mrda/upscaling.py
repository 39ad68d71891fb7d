"""Upscaling files: which ones, into which, and photo after photo with reading and writing beside the computing."""

from __future__ import annotations

import glob
import json
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from mrda.files import remove_leftovers
from mrda.images import SKIMAGE_PREFIX, ImageArray, ImageError, Source, find_images, source_name
from mrda.inference import Upscaler, is_out_of_memory
from mrda.photos import FORMATS, MAX_PIXELS, Photo, read_photo, write_photo

HELD_PIXELS = 64_000_000
"""Pixels of a result that may wait in memory to be written beside the next photo's computing; more are written as they
come."""

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
        source: where it is.
        target: the file to write.
        format: of that, a key of `mrda.photos.FORMATS`.
    """

    source: Source
    target: Path
    format: str


@dataclass(frozen=True)
class Result:
    """What became of a job.

    Attributes:
        job: the job.
        state: done, skipped since it was done before, or failed.
        reason: of a failure, in a sentence.
        notices: what could not be kept, in a few words each.
    """

    job: Job
    state: Literal["done", "skipped", "failed"]
    reason: str | None = None
    notices: tuple[str, ...] = ()


def plan(
    photos: Sequence[Source], output: Path, *, suffix: str, ext: str = "auto", recursive: bool = False
) -> list[Job]:
    """Say which file each photo becomes; nothing is read or written.

    Args:
        photos: files, folders (the tree below one is kept in ``output``) and patterns such as ``holiday/*.jpg``.
        output: the folder to write to.
        suffix: what follows the name, after an underscore: ``out`` makes ``photo_out.png`` of ``photo.png``; empty adds
            nothing.
        ext: a key of `mrda.photos.FORMATS`, or "auto": that of the photo, PNG if it is none of them.
        recursive: also look into the folders' folders.

    Raises:
        ImageError: a folder holds no image.
        ValueError: two photos would be written to one file, or one over a photo.
    """
    jobs: dict[Path, Job] = {}
    inputs = set()
    for source, inside in _sources(photos, recursive, output):
        kind = _FORMATS.get(Path(str(source)).suffix.lower(), "png") if ext == "auto" else ext
        name = source_name(source) + (f"_{suffix}" if suffix else "")
        target = output / inside / f"{name}{FORMATS[kind]}"
        if target in jobs:
            raise ValueError(f"{jobs[target].source} and {source} would both be written to {target}")
        jobs[target] = Job(source, target, kind)
        inputs.add(os.path.realpath(source))
    for target in jobs:
        if os.path.realpath(target) in inputs:
            raise ValueError(f"{target} is one of the photos to upscale, and would be overwritten")
    return list(jobs.values())


def mine(jobs: Sequence[Job]) -> list[Job]:
    """Those of this process, where a launcher (torchrun, accelerate launch) has started several.

    A job falls to a process by the name of its result, whatever other jobs there are.

    Raises:
        ValueError: RANK and WORLD_SIZE in the environment are not what a launcher sets.
    """
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise ValueError(f"RANK is {rank!r} and WORLD_SIZE {count!r}, but must be as torchrun sets them, or not set")
    return [job for job in jobs if zlib.crc32(os.fsencode(job.target)) % int(count) == int(rank)]


class Manifest:
    """The jobs that are done, one JSON line each: a run that was stopped goes on from there.

    Several processes may share it: each line is appended by one write.

    Args:
        path: the file; made when the first job is done.

    Raises:
        ValueError: the file is no manifest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: set[tuple[str, str]] = set()
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._done.add((entry["source"], entry["target"]))
            except (ValueError, TypeError, KeyError):
                continue  # a killed process may have left half a line
        if "\n" in text and not self._done:
            raise ValueError(f"{path} is not a manifest of an upscaling: name another file")
        self._cut = bool(text) and not text.endswith("\n")
        self._writing = threading.Lock()

    def has(self, job: Job) -> bool:
        """Whether a job is done, and its result still there."""
        return _key(job) in self._done and os.path.isfile(job.target)

    def add(self, job: Job) -> None:
        """Note that a job is done."""
        source, target = _key(job)
        line = json.dumps({"source": source, "target": target}) + "\n"
        with self._writing, self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._cut + line)
            self._cut = False


def upscale_photos(
    upscaler: Upscaler,
    jobs: Iterable[Job],
    *,
    scale: float | None = None,
    workers: int = 2,
    quality: int = 95,
    max_pixels: int = MAX_PIXELS,
    skip_existing: bool = False,
    manifest: Manifest | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Result]:
    """Upscale photos into files, each of which appears whole or not at all.

    Args:
        upscaler: what upscales.
        jobs: from `plan`.
        scale: how much larger the results are; None is the upscaler's own, and others are resampled from that.
        workers: threads that read and write while this one computes.
        quality: of JPEG and WebP, 1 to 100.
        max_pixels: larger photos fail.
        skip_existing: leave photos alone whose result is there.
        manifest: leave those alone that are in it, and note those that get done.
        progress: told the share of the present photo that is done.

    Yields:
        What became of each job, in their order.
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Job, Future[Photo] | None]] = deque()
        behind: deque[Future[Result]] = deque()
        waiting = iter(jobs)

        def read_ahead() -> None:
            for job in waiting:
                skip = (skip_existing and os.path.isfile(job.target)) or (manifest is not None and manifest.has(job))
                ahead.append((job, None if skip else pool.submit(read_photo, job.source, max_pixels)))
                return

        for _ in range(workers):
            read_ahead()
        while ahead:
            job, reading = ahead.popleft()
            read_ahead()
            write = partial(_written, job=job, quality=quality, manifest=manifest)
            behind.append(_done(_upscaled(upscaler, job, reading, pool, scale, write, progress)))
            while len(behind) > workers:
                yield behind.popleft().result()
        while behind:
            yield behind.popleft().result()


def _upscaled(
    upscaler: Upscaler,
    job: Job,
    reading: Future[Photo] | None,
    pool: ThreadPoolExecutor,
    scale: float | None,
    write: Callable[[Iterable[ImageArray], int, Photo], Result],
    progress: Callable[[float], None] | None,
) -> Result | Future[Result]:
    """Compute a photo's result, and write it or have it written."""
    if reading is None:
        return Result(job, "skipped")
    try:
        photo = reading.result()
    except ImageError as error:
        return Result(job, "failed", str(error))
    except OSError as error:
        return Result(job, "failed", f"cannot read {job.source}: {error.strerror or error}")
    except MemoryError:
        return Result(job, "failed", _no_memory(job))
    factor = upscaler.scale if scale is None else scale
    height, width = (max(1, round(factor * side)) for side in photo.pixels.shape[:2])
    try:
        bands: Iterable[ImageArray] = upscaler.bands(photo.pixels, progress)
        if factor != upscaler.scale:
            bands = [resample(np.concatenate(list(bands)), height, width)]
        if height * width > HELD_PIXELS:
            return write(bands, height, photo)
        held = [np.concatenate(list(bands))]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Result(job, "failed", _no_memory(job))
    return pool.submit(write, held, height, photo)


def _written(
    bands: Iterable[ImageArray], height: int, photo: Photo, *, job: Job, quality: int, manifest: Manifest | None
) -> Result:
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(job.target)  # of a process that was killed
        notices = write_photo(job.target, bands, height, photo, format=job.format, quality=quality)
    except OSError as error:
        return Result(job, "failed", f"cannot write {job.target}: {error.strerror or error}")
    except ValueError as error:
        return Result(job, "failed", f"cannot write {job.target}: {error}")
    except MemoryError:
        return Result(job, "failed", _no_memory(job))
    if manifest is not None:
        try:
            manifest.add(job)
        except OSError as error:
            notices = (*notices, f"{manifest.path} can't be written, so this is not noted as done: {error.strerror}")
    return Result(job, "done", notices=(*photo.notices, *notices))


def resample(pixels: ImageArray, height: int, width: int) -> ImageArray:
    """Bring (H, W) or (H, W, C), uint8 or uint16, to another size by Lanczos' kernel, widened where it shrinks."""
    planes = [pixels] if pixels.ndim == 2 else list(np.moveaxis(pixels, 2, 0))
    resized = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS))
        for plane in planes
    ]
    levels = np.rint(np.clip(np.stack(resized, axis=-1), 0, np.iinfo(pixels.dtype).max)).astype(pixels.dtype)
    return levels[..., 0] if pixels.ndim == 2 else levels


def _sources(photos: Sequence[Source], recursive: bool, output: Path) -> Iterator[tuple[Source, Path]]:
    """Each photo once, and the folder below the output folder that it belongs to.

    Of an output folder inside a folder of photos nothing is taken: they are the results of an earlier run.
    """
    results = Path(os.path.realpath(output))
    seen: set[Source] = set()
    for photo in photos:
        named = str(photo).startswith(SKIMAGE_PREFIX) or os.path.exists(photo)
        matches: list[Source] = [photo] if named else [*sorted(glob.glob(str(photo), recursive=True))]
        for match in matches or [photo]:
            folder = Path(match) if os.path.isdir(match) else None
            holds_results = folder is not None and results != Path(os.path.realpath(folder))
            for source in find_images([match], recursive=recursive):
                key = source if str(source).startswith(SKIMAGE_PREFIX) else Path(os.path.realpath(source))
                if key not in seen and not (holds_results and results in Path(key).parents):
                    seen.add(key)
                    yield source, Path() if folder is None else Path(source).relative_to(folder).parent


def _done(result: Result | Future[Result]) -> Future[Result]:
    if isinstance(result, Future):
        return result
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def _no_memory(job: Job) -> str:
    return f"cannot upscale {job.source}: there is not enough memory for a photo of its size"


def _key(job: Job) -> tuple[str, str]:
    return str(Path(job.source).absolute()), str(job.target.absolute())
