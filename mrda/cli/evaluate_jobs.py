"""Photos measured one by one for `mrda evaluate`, with a bar, and a sentence on each that fails."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from mrda.cli.common import progress, report

if TYPE_CHECKING:
    from mrda.photo.images import Source

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Measurement(Generic[RecordT]):
    """One photo, and what measures it.

    Args:
        folder: the data set's name.
        files: those of the photo, by which an error may be known to name it already; the last is the one to name.
        run: yields a record for each measurement.
    """

    folder: str
    files: "Sequence[Source | Path]"
    run: Callable[[], Iterator[RecordT]]


@dataclass(frozen=True)
class Results(Generic[RecordT]):
    """What came of the jobs.

    Args:
        records: by data set, of the photos that did not fail.
        done: how many those are, by data set.
    """

    records: dict[str, list[RecordT]]
    done: dict[str, int]


def run_jobs(jobs: Sequence[Measurement[RecordT]], per_photo: int) -> Results[RecordT]:
    """Measure all photos; where one fails none of its records count, and a line on stderr says why.

    Args:
        jobs: the photos.
        per_photo: records that each yields, for the bar.
    """
    records: dict[str, list[RecordT]] = {}
    done: dict[str, int] = dict.fromkeys((job.folder for job in jobs), 0)
    with progress("evaluating", len(jobs) * per_photo) as bar:
        for number, job in enumerate(jobs, start=1):
            measured, failure = _run(job, lambda: bar.advance(bar.task_ids[0]))
            if failure is None:
                records.setdefault(job.folder, []).extend(measured)
                done[job.folder] += 1
            else:
                report(bar, failure)
            bar.update(bar.task_ids[0], completed=number * per_photo)
    return Results(records, done)


def _run(job: Measurement[RecordT], step: Callable[[], None]) -> tuple[list[RecordT], str | None]:
    """Measure one photo; what prevents it is returned as a sentence, and then none of its records count."""
    from mrda.upscale.upscaler import is_out_of_memory

    measured = []
    try:
        for record in job.run():
            measured.append(record)
            step()
    except (OSError, ValueError) as error:
        named = any(os.fspath(file) in str(error) for file in job.files)
        return [], str(error) if named else f"{job.files[-1]}: {error}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return [], f"{job.files[-1]}: there is not enough memory for a photo of its size"
    return measured, None
