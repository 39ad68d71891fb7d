# SPDX-License-Identifier: Apache-2.0
"""The results in an output folder, by which a run on a cluster continues, and the record of their weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mrda.core.faults import reason
from mrda.core.files import make_folder, write_text
from mrda.upscale.jobs import Job
from mrda.upscale.stores import Store, connect, is_stored

RECORD = ".mrda-run.json"
"""File of the output folder that says which weights and scale its results are from."""


class Results:
    """The results in an output folder, and the record of the weights and the scale that they are from.

    Args:
        output: the folder, or its URI in a store.

    Raises:
        ValueError: the store does not answer; the message is one sentence.
    """

    def __init__(self, output: Path | str) -> None:
        self._output = output
        self._store: Store | None = connect(str(output)) if is_stored(output) else None
        try:
            self._names = set(self._list())
        except OSError as error:
            raise ValueError(f"cannot list {self}: {reason(error)}") from error

    def __str__(self) -> str:
        return str(self._output) if self._store is None else self._store.uri

    def has(self, job: Job) -> bool:
        """Check that a job was done before; see `mrda.upscale.jobs.is_done` for those whose results are alike."""
        start = "" if self._store is not None else f"{job.output}{os.sep}"
        return all(os.fspath(target).removeprefix(start) in self._names for target in job.beside or (job.target,))

    def exists(self, job: Job) -> bool:
        """Check that there is a file of that name, which may be another photo's result."""
        return os.fspath(job.name) in self._names

    def check(self, how: dict[str, Any], jobs: Iterable[Job], skip_existing: bool) -> None:
        """Refuse results of other weights, strength or scale, which could not be told from those of this run.

        Args:
            how: from `origin`.
            jobs: the jobs of this run.
            skip_existing: take results that no run has recorded for results of this one.

        Raises:
            ValueError: there are such results, or the record can't be read.
        """
        recorded = self._recorded()
        if recorded is None:
            if not skip_existing and (there := next(filter(self.exists, jobs), None)) is not None:
                raise ValueError(
                    f"{there.address} exists, and {self} has no record of the weights that it is from: name another "
                    "folder with -o, or keep what exists with --skip-existing"
                )
        elif recorded != how:
            raise ValueError(
                f"{self} holds results of other weights, strength or scale ({RECORD} says so): name another folder "
                "with -o"
            )

    def record(self, how: dict[str, Any]) -> None:
        """Write the record; raises OSError, or ValueError if the folder can't be created."""
        text = json.dumps(how) + "\n"
        if self._store is not None:
            self._store.write(RECORD, text.encode())
        else:
            make_folder(Path(self._output), "output folder")
            write_text(Path(self._output, RECORD), text)

    def _list(self) -> Iterator[str]:
        if self._store is not None:
            yield from self._store.names()
            return
        for where, _, names in os.walk(self._output):
            inside = os.path.relpath(where, self._output)
            yield from (name if inside == os.curdir else os.path.join(inside, name) for name in names)

    def _recorded(self) -> dict[str, Any] | None:
        if RECORD not in self._names:
            return None
        try:
            text = Path(self._output, RECORD).read_bytes() if self._store is None else self._store.read(RECORD)
            return dict(json.loads(text))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{self}/{RECORD} can't be read: {reason(error)}") from error
