# SPDX-License-Identifier: Apache-2.0
"""Upscales files, photo after photo; reading and writing overlap with computing."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mrda.core.faults import is_full, reason
from mrda.core.files import TEMPORARY, check_writable, temporary_key
from mrda.core.progress import NoProgress, Progress, Share
from mrda.photo.files import FORMATS, MAX_PIXELS, Photo, check_size, read_photo, write_photo
from mrda.photo.images import ImageArray, ImageError
from mrda.photo.lanczos import resample
from mrda.upscale.jobs import Job
from mrda.upscale.upscaler import Upscaler, is_out_of_memory

HELD_PIXELS = 64_000_000
"""Pixels of the largest result that is held in memory, to be written while the next photo is computed; larger ones are
written band by band."""
_ABANDONED = 24 * 60 * 60  # seconds


@dataclass(frozen=True)
class Result:
    """Outcome of a job.

    Attributes:
        job: the job.
        state: done, skipped because it was done before, or failed.
        reason: reason of a failure, in a sentence.
        notices: things that could not be kept, in a few words each.
    """

    job: Job
    state: Literal["done", "skipped", "failed"]
    reason: str | None = None
    notices: tuple[str, ...] = ()


class _Disk:
    """The disk of the results. Once it was full, photos are only computed if a small file can be written."""

    def __init__(self) -> None:
        self.full = False

    def fault(self, job: Job) -> str | None:
        """Return the reason why a result can't be written, if the disk was full and still is."""
        if not self.full:
            return None
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            check_writable(job.target)
        except OSError as error:
            if is_full(error):
                return f"cannot write {job.target}: {reason(error)}"
        self.full = False
        return None


class Manifest:
    """Record of finished jobs, one JSON line each, from which an interrupted run continues.

    A job counts as finished only with the same weights and scale. Several processes may share the file: each line is
    appended by one write.

    Args:
        path: the file; created when the first job is finished.
        upscaler: the upscaler of this run.
        scale: enlargement of the results; None is the upscaler's own scale.

    Raises:
        ValueError: the file is not a manifest or can't be read.
    """

    def __init__(self, path: Path, upscaler: Upscaler, scale: float | None = None) -> None:
        self.path = path
        self.failed = False
        """True if a finished job could not be recorded."""
        self._how = {"weights": _digest(upscaler.network), "scale": upscaler.scale if scale is None else scale}
        self._done: dict[str, dict[str, Any]] = {}  # by target; the last line counts
        text = _content(path)
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._done[os.fspath(entry["target"])] = {key: entry[key] for key in ("source", "target", *self._how)}
            except (ValueError, TypeError, KeyError):
                continue  # a killed process may have left half a line
        if "\n" in text and not self._done:
            raise ValueError(f"{path} is not a manifest of `mrda upscale`: name another file")
        self._cut = bool(text) and not text.endswith("\n")
        self._writing = threading.Lock()

    @property
    def targets(self) -> Collection[str]:
        """Real paths of all results, with any weights and scale."""
        folders = {folder: os.path.realpath(folder) for folder in map(os.path.dirname, self._done)}
        return {os.path.join(folders[os.path.dirname(target)], os.path.basename(target)) for target in self._done}

    def has(self, job: Job) -> bool:
        """Check that a job is finished and its result still exists."""
        entry = self._entry(job)
        return self._done.get(entry["target"]) == entry and os.path.isfile(job.target)

    def add(self, job: Job) -> str | None:
        """Record a finished job; the first time that this fails, return the reason."""
        line = json.dumps(self._entry(job)) + "\n"
        with self._writing:
            try:
                _append(self.path, ("\n" * self._cut + line).encode())
                self._cut = False
            except OSError as error:
                self._cut = True
                if not self.failed:
                    self.failed = True
                    return f"{self.path} can't be written, so finished photos are not recorded: {reason(error)}"
        return None

    def _entry(self, job: Job) -> dict[str, Any]:
        return {"source": str(Path(job.source).absolute()), "target": str(job.target.absolute()), **self._how}


def is_done(job: Job, skip_existing: bool, manifest: Manifest | None) -> bool:
    """Check whether `upscale_photos` would skip a job.

    An existing result counts only beside those of all photos that it could be mistaken for: it may be another one's,
    from a run before that one had to share its name.
    """
    exists = skip_existing and all(map(os.path.isfile, job.beside or (job.target,)))
    return exists or (manifest is not None and manifest.has(job))


def sweep(jobs: Iterable[Job]) -> None:
    """Remove temporary files that killed processes have left in the folders of the results.

    These are the temporary files of these jobs, which no other process must be working on, and of any other result if
    they have not been written to for a day.
    """
    keys: dict[Path, set[str]] = {}
    for job in jobs:
        keys.setdefault(job.target.parent, set()).add(temporary_key(job.target.name))
    for folder, own in keys.items():
        for path in folder.glob(".mrda-*"):
            match = TEMPORARY.fullmatch(path.name)
            if match is None or match["suffix"] not in FORMATS.values():
                continue
            with suppress(OSError):
                if match["target"] in own or path.lstat().st_mtime < time.time() - _ABANDONED:
                    path.unlink()


def upscale_photos(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    *,
    scale: float | None = None,
    workers: int = 2,
    quality: int = 95,
    lossless: bool | None = None,
    max_pixels: int = MAX_PIXELS,
    skip_existing: bool = False,
    manifest: Manifest | None = None,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Upscale photos into files, each of which is written completely or not at all.

    A photo that can't be read, computed or written fails, and the others are done. While the disk is full, those that
    follow fail without being computed.

    Args:
        upscaler: the upscaler.
        jobs: from `plan`.
        scale: enlargement of the results; None is the upscaler's own scale, from which others are resampled.
        workers: threads that read and write while this one computes.
        quality: quality of JPEG and lossy WebP, 1 to 100.
        lossless: write WebP without loss; None does so for lossless photos.
        max_pixels: photos with more pixels fail.
        skip_existing: skip photos whose result exists.
        manifest: skip photos that are in it, and record those that are finished.
        progress: receives photos, tile by tile as fractions.

    Yields:
        The outcome of each job, in their order.
    """
    shown = (progress or NoProgress()).task("upscaling", len(jobs))
    disk = _Disk()
    with ThreadPoolExecutor(workers) as pool, shown as task:
        ahead: deque[tuple[Job, Future[Photo] | None]] = deque()
        behind: deque[Future[Result]] = deque()
        waiting = iter(jobs)

        def read_ahead() -> None:
            for job in waiting:
                skip = job.fault is not None or is_done(job, skip_existing, manifest)
                ahead.append((job, None if skip else pool.submit(read_photo, job.source, max_pixels)))
                return

        for _ in range(workers):
            read_ahead()
        while ahead:
            job, reading = ahead.popleft()
            read_ahead()
            write = partial(_written, job=job, quality=quality, lossless=lossless, manifest=manifest, disk=disk)
            share = Share(task)
            behind.append(_done(_upscaled(upscaler, job, reading, pool, scale, write, share, disk)))
            share(1)
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
    share: Share,
    disk: _Disk,
) -> Result | Future[Result]:
    """Compute a photo's result, and write it here or in another thread."""
    if job.fault is not None:
        return Result(job, "failed", job.fault)
    if reading is None:
        return Result(job, "skipped")
    try:
        photo = reading.result()
    except ImageError as error:
        return Result(job, "failed", str(error))
    except OSError as error:
        return Result(job, "failed", f"cannot read {job.source}: {reason(error)}")
    except MemoryError:
        return Result(job, "failed", _no_memory(job))
    factor = upscaler.scale if scale is None else scale
    height, width = (max(1, round(factor * side)) for side in photo.pixels.shape[:2])
    try:
        check_size(job.format, height, width)
    except ValueError as error:
        return Result(job, "failed", f"cannot write {job.target}: {error}")
    if (fault := disk.fault(job)) is not None:
        return Result(job, "failed", fault)
    try:
        bands = upscaler.bands(photo.pixels, share)
        if factor != upscaler.scale:
            own_height, own_width = (upscaler.scale * side for side in photo.pixels.shape[:2])
            bands = resample(bands, (own_height, own_width), (height, width))
        if height * width > HELD_PIXELS:
            return write(bands, height, photo)
        held = [np.concatenate(list(bands))]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Result(job, "failed", _no_memory(job))
    return pool.submit(write, held, height, photo)


def _written(
    bands: Iterable[ImageArray],
    height: int,
    photo: Photo,
    *,
    job: Job,
    quality: int,
    lossless: bool | None,
    manifest: Manifest | None,
    disk: _Disk,
) -> Result:
    folder = job.target.parent
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(job.output)):
        return Result(
            job, "failed", f"cannot write {job.target}: {folder} is a symlink that leads out of the output folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        notices = write_photo(job.target, bands, height, photo, format=job.format, quality=quality, lossless=lossless)
    except OSError as error:
        disk.full = disk.full or is_full(error)
        return Result(job, "failed", f"cannot write {job.target}: {reason(error)}")
    except ValueError as error:
        return Result(job, "failed", f"cannot write {job.target}: {error}")
    except MemoryError:
        return Result(job, "failed", _no_memory(job))
    if manifest is not None and (fault := manifest.add(job)) is not None:
        notices = (*notices, fault)
    return Result(job, "done", notices=(*photo.notices, *notices))


def _append(path: Path, line: bytes) -> None:
    """Append a line by one write, which other processes' lines can't divide; half a line is removed again."""
    with open(path, "ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        written = file.write(line)
        if written < len(line):  # the disk is full, which the next write says
            try:
                file.write(line[written:])
            except OSError:
                if os.fstat(file.fileno()).st_size == before + written:
                    file.truncate(before)
                raise


def _content(path: Path) -> str:
    """Read a manifest's text; it is empty if there is no such file."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} can't be a manifest, because it is not a regular file: name another one")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a manifest of `mrda upscale`: name another file") from None
    except OSError as error:
        raise ValueError(f"the manifest {path} can't be read: {reason(error)}") from None


def _digest(network: torch.nn.Module) -> str:
    """Return a hash of a network's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _done(result: Result | Future[Result]) -> Future[Result]:
    if isinstance(result, Future):
        return result
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def _no_memory(job: Job) -> str:
    return f"cannot upscale {job.source}: there is not enough memory for a photo of its size"
