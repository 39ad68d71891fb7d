# SPDX-License-Identifier: Apache-2.0
"""Upscales files, photo after photo; reading and writing overlap with computing."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from mrda.core.faults import is_full, reason
from mrda.core.files import TEMPORARY, check_writable, temporary_key
from mrda.core.progress import NoProgress, Progress, Share
from mrda.photo.files import FORMATS, MAX_PIXELS, Photo, check_size, read_photo, write_photo
from mrda.photo.images import ImageArray, ImageError
from mrda.photo.lanczos import resampled
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.choice import Choice, choose
from mrda.upscale.jobs import Job, is_done
from mrda.upscale.manifest import Manifest
from mrda.upscale.upscaler import Upscaler, is_out_of_memory

HELD_PIXELS = 64_000_000
"""Pixels of the largest result that is held in memory, to be written while the next photo is computed; larger ones are
written band by band."""
TOGETHER_PIXELS = 2**20
"""LR pixels of the photos that share a forward pass, at most: more of them do not make it faster."""
_ABANDONED = 24 * 60 * 60  # seconds


@dataclass(frozen=True)
class Result:
    """Outcome of a job.

    Attributes:
        job: the job.
        state: done, skipped because it was done before, or failed.
        reason: reason of a failure, in a sentence.
        notices: things that could not be kept, in a few words each.
        choice: how it was enlarged and why, if it was done by an `AutoUpscaler`.
    """

    job: Job
    state: Literal["done", "skipped", "failed"]
    reason: str | None = None
    notices: tuple[str, ...] = ()
    choice: Choice | None = None


class Files:
    """Reads photos and writes results: as files of this machine."""

    def read(self, job: Job, max_pixels: int) -> Photo:
        """Read a job's photo; raises as `mrda.photo.reading.read_photo`, or OSError."""
        return read_photo(job.source, max_pixels)

    def write(
        self,
        job: Job,
        bands: Iterable[ImageArray],
        height: int,
        photo: Photo,
        *,
        quality: int,
        lossless: bool | None,
    ) -> tuple[str, ...]:
        """Write a job's result, completely or not at all; see `mrda.photo.files.write_photo`.

        Raises:
            ValueError: the folder is a symlink that leads out of the output folder, or the format can't hold the image.
            OSError: the folder can't be made or the file can't be written.
        """
        folder = job.target.parent
        if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(job.output)):
            raise ValueError(f"{folder} is a symlink that leads out of the output folder")
        folder.mkdir(parents=True, exist_ok=True)
        return write_photo(job.target, bands, height, photo, format=job.format, quality=quality, lossless=lossless)


@dataclass(frozen=True)
class _Ready:
    """A photo that has been read and is to be computed."""

    job: Job
    photo: Photo
    size: tuple[int, int]  # height and width of the result
    choice: Choice | None

    @property
    def kind(self) -> tuple[object, ...]:
        """The photos of one kind can share a forward pass."""
        return self.photo.pixels.shape, None if self.choice is None else self.choice.weights

    @property
    def most(self) -> int:
        """Number of photos of its size that may share a forward pass; those that are only resampled have none."""
        height, width = self.photo.pixels.shape[:2]
        return 1 if self.choice is not None and self.choice.weights is None else TOGETHER_PIXELS // (height * width)


class _Disk:
    """The disk of the results. Once it was full, photos are only computed if a small file can be written."""

    def __init__(self) -> None:
        self.full = False

    def fault(self, job: Job) -> str | None:
        """Return the reason why a result can't be written, if the disk was full and still is."""
        if not self.full or job.store is not None:
            return None
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            check_writable(job.target)
        except OSError as error:
            if is_full(error):
                return f"cannot write {job.target}: {reason(error)}"
        self.full = False
        return None


def sweep(jobs: Iterable[Job]) -> None:
    """Remove temporary files that killed processes have left in the folders of the results.

    These are the temporary files of these jobs, which no other process must be working on, and of any other result if
    they have not been written to for a day.
    """
    keys: dict[Path, set[str]] = {}
    for job in jobs:
        if job.store is not None:
            continue
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
    upscaler: Upscaler | AutoUpscaler,
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
    together: int = 1,
    files: Files | None = None,
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
        together: number of photos that share a forward pass, at most; those that follow one another, have one size and
            `TOGETHER_PIXELS` in all do. The first is computed when the last is read.
        files: reads photos and writes results; None does so as files of this machine.

    Yields:
        The outcome of each job, in their order.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the outcomes of the photos that were computed before; a photo that was being
            computed is given up.
    """
    shown = (progress or NoProgress()).task("upscaling", len(jobs))
    disk, files = _Disk(), files or Files()
    with ThreadPoolExecutor(workers) as pool, shown as task:
        ahead: deque[tuple[Job, Future[Photo] | None]] = deque()
        behind: deque[Future[Result]] = deque()
        waiting = iter(jobs)

        def read_ahead() -> None:
            for job in waiting:
                skip = job.fault is not None or is_done(job, skip_existing, manifest)
                ahead.append((job, None if skip else pool.submit(files.read, job, max_pixels)))
                return

        def finished(most: int) -> Iterator[Result]:
            while len(behind) > most:
                result = behind[0].result()
                behind.popleft()
                yield result

        def prepared() -> Iterator[_Ready | Result]:
            while ahead:
                job, reading = ahead.popleft()
                read_ahead()
                yield _prepared(upscaler, job, reading, scale, disk)

        for _ in range(max(workers, together)):
            read_ahead()
        write = partial(_written, files=files, quality=quality, lossless=lossless, manifest=manifest, disk=disk)
        try:
            for group in _alike(prepared(), together):
                share = Share(task, 1 if isinstance(group, Result) else len(group))
                outcomes = [group] if isinstance(group, Result) else _computed(upscaler, group, pool, write, share)
                behind.extend(map(_done, outcomes))
                share(1)
                yield from finished(workers)
            yield from finished(0)
        except KeyboardInterrupt:
            yield from finished(0)
            raise


def _alike(prepared: Iterable[_Ready | Result], most: int) -> Iterator[list[_Ready] | Result]:
    """Yield photos of one kind that follow one another as groups, and the outcomes of those that are not computed."""
    group: list[_Ready] = []
    for ready in prepared:
        if group and (isinstance(ready, Result) or ready.kind != group[0].kind):
            yield group
            group = []
        if isinstance(ready, Result):
            yield ready
            continue
        group.append(ready)
        if len(group) >= min(most, ready.most):
            yield group
            group = []
    if group:
        yield group


def _prepared(
    upscaler: Upscaler | AutoUpscaler, job: Job, reading: Future[Photo] | None, scale: float | None, disk: _Disk
) -> _Ready | Result:
    """Return a photo that has been read, with what is decided before it is computed, or its outcome."""
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
        return Result(job, "failed", f"cannot write {job.address}: {error}")
    if (fault := disk.fault(job)) is not None:
        return Result(job, "failed", fault)
    try:
        choice = choose(photo) if isinstance(upscaler, AutoUpscaler) else None
    except MemoryError:
        return Result(job, "failed", _no_memory(job))
    return _Ready(job, photo, (height, width), choice)


def _computed(
    upscaler: Upscaler | AutoUpscaler,
    group: Sequence[_Ready],
    pool: ThreadPoolExecutor,
    write: Callable[..., Result],
    share: Share,
) -> list[Result | Future[Result]]:
    """Compute the results of photos of one kind, and write them here or in other threads."""
    first = group[0]
    height, width = first.size
    try:
        if len(group) > 1:
            results = _together(upscaler, group)
            return [pool.submit(write, ready, [sr], height) for ready, sr in zip(group, results, strict=True)]
        if first.choice is not None and isinstance(upscaler, AutoUpscaler):
            bands = upscaler.bands(first.photo, first.choice, height, width, share)
        else:
            assert isinstance(upscaler, Upscaler)
            bands = upscaler.bands_of_size(first.photo.pixels, height, width, share)
        if height * width > HELD_PIXELS:
            return [write(first, bands, height)]
        held = [np.concatenate(list(bands))]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return [Result(ready.job, "failed", _no_memory(ready.job)) for ready in group]
    return [pool.submit(write, first, held, height)]


def _together(upscaler: Upscaler | AutoUpscaler, group: Sequence[_Ready]) -> list[ImageArray]:
    """Compute the results of photos of one kind in one forward pass."""
    if isinstance(upscaler, AutoUpscaler):
        choice = group[0].choice
        assert choice is not None
        assert choice.weights is not None
        upscaler = upscaler.upscaler(choice.weights)
    results = upscaler.together([ready.photo.pixels for ready in group])
    own, size = results[0].shape[:2], group[0].size
    return results if own == size else [resampled(sr, size) for sr in results]


def _written(
    ready: _Ready,
    bands: Iterable[ImageArray],
    height: int,
    *,
    files: Files,
    quality: int,
    lossless: bool | None,
    manifest: Manifest | None,
    disk: _Disk,
) -> Result:
    job, photo = ready.job, ready.photo
    try:
        notices = files.write(job, bands, height, photo, quality=quality, lossless=lossless)
    except OSError as error:
        disk.full = disk.full or is_full(error)
        return Result(job, "failed", f"cannot write {job.address}: {reason(error)}")
    except ValueError as error:
        return Result(job, "failed", f"cannot write {job.address}: {error}")
    except MemoryError:
        return Result(job, "failed", _no_memory(job))
    if manifest is not None and (fault := manifest.add(job)) is not None:
        notices = (*notices, fault)
    return Result(job, "done", notices=(*photo.notices, *notices), choice=ready.choice)


def _done(result: Result | Future[Result]) -> Future[Result]:
    if isinstance(result, Future):
        return result
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def _no_memory(job: Job) -> str:
    return f"cannot upscale {job.source}: there is not enough memory for a photo of its size"
