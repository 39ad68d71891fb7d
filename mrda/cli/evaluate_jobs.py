# SPDX-License-Identifier: Apache-2.0
"""Measures photos one by one for `mrda evaluate`, with a progress bar, and reports those that fail."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from mrda.cli.common import progress
from mrda.core.faults import reason

if TYPE_CHECKING:
    from mrda.photo.images import Source

_log = logging.getLogger(__name__)

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Measurement(Generic[RecordT]):
    """The measurements of one photo.

    Args:
        folder: the data set's name.
        files: the photo's files; an error that names none of them is reported with the last one.
        run: yields a record for each measurement.
    """

    folder: str
    files: "Sequence[Source | Path]"
    run: Callable[[], Iterator[RecordT]]


@dataclass(frozen=True)
class Results(Generic[RecordT]):
    """Results of all photos.

    Args:
        records: by data set, of the photos that did not fail.
        done: number of photos that did not fail, by data set.
    """

    records: dict[str, list[RecordT]]
    done: dict[str, int]


def run_jobs(jobs: Sequence[Measurement[RecordT]], per_photo: int) -> Results[RecordT]:
    """Measure all photos; the reason why one fails is logged, and none of its records count.

    Args:
        jobs: the photos.
        per_photo: number of records per photo, for the progress bar.
    """
    records: dict[str, list[RecordT]] = {}
    done: dict[str, int] = dict.fromkeys((job.folder for job in jobs), 0)
    with progress("evaluating", len(jobs) * per_photo) as task:
        for job in jobs:
            measured, failure = _run(job, task.advance)
            if failure is None:
                records.setdefault(job.folder, []).extend(measured)
                done[job.folder] += 1
            else:
                _log.error(failure)
            task.advance(per_photo - len(measured))
    return Results(records, done)


def _run(job: Measurement[RecordT], step: Callable[[], None]) -> tuple[list[RecordT], str | None]:
    """Measure one photo; if that fails, return the records so far and the reason in a sentence."""
    from mrda.upscale.upscaler import is_out_of_memory

    measured: list[RecordT] = []
    try:
        for record in job.run():
            measured.append(record)
            step()
    except OSError as error:
        place = "" if error.filename is None else f"cannot write {error.filename}: "
        return measured, f"{job.files[-1]}: {place}{reason(error)}"
    except ValueError as error:
        named = any(os.fspath(file) in str(error) for file in job.files)
        return measured, str(error) if named else f"{job.files[-1]}: {error}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return measured, f"{job.files[-1]}: there is not enough memory for a photo of its size"
    return measured, None
