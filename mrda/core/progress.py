# SPDX-License-Identifier: Apache-2.0
"""Progress by one protocol, as bars on a terminal and lines elsewhere, and the log on the terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mrda.core.durations import in_words

Item = TypeVar("Item")

_log = logging.getLogger(__name__)

LINE_EVERY = 30.0
"""Seconds between the lines that take the place of a bar where there is no terminal."""

STDERR = Console(stderr=True)
"""The terminal of bars and messages: what is printed on it while bars are shown appears above them."""


class Task(Protocol):
    """A task whose progress is shown."""

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        """Add ``amount`` to what is done; ``note`` is shown beside the bar."""


class Progress(Protocol):
    """Shows how far tasks have come. A library takes one and stays silent by default (`NoProgress`)."""

    def task(self, description: str, total: float | None) -> AbstractContextManager[Task]:
        """Show a task of ``total`` units (None if unknown) while the context is open."""


class NoProgress:
    """A `Progress` that shows nothing."""

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Task]:
        """See `Progress`."""
        yield _SilentTask()


class TerminalProgress:
    """A `Progress` of bars with the time that remains; they vanish when the last open task ends.

    Lines that are logged or printed meanwhile appear above the bars. If ``console`` is no terminal, a line is logged
    every `LINE_EVERY` seconds instead.

    Args:
        console: the terminal, by default that of stderr.
        in_bytes: show bytes and bytes per second instead of percent.
        clock: gives the time in seconds, for the lines.
    """

    def __init__(
        self, console: Console | None = None, *, in_bytes: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = STDERR if console is None else console
        self._clock = clock
        amount = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (TextColumn("{task.percentage:>3.0f}%"),)
        self._bars = rich.progress.Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *amount,
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
        )
        self._open = 0

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Task]:
        """See `Progress`."""
        if not self.console.is_terminal:
            yield _Lines(description, total, self._clock)
            return
        if not self._open:
            self._bars.start()
        self._open += 1
        task = self._bars.add_task(description, total=total, note="")
        try:
            yield _Bar(self._bars, task)
        finally:
            self._open -= 1
            if not self._open:
                self._bars.stop()
                for finished in self._bars.task_ids:
                    self._bars.remove_task(finished)


def track(items: Iterable[Item], total: float, description: str, progress: Progress) -> Iterator[Item]:
    """Yield ``items`` and advance a task of ``progress`` by one for each."""
    with progress.task(description, total) as task:
        for item in items:
            yield item
            task.advance()


def log_to_stderr(level: int = logging.INFO) -> None:
    """Let the package's log (``logging.getLogger("mrda")``) print ``mrda: MESSAGE`` lines on stderr.

    For commands and scripts; a library leaves handlers to its user. Calling it again changes the level only.
    """
    logger = logging.getLogger("mrda")
    logger.setLevel(level)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("mrda: %(message)s"))
        logger.addHandler(handler)


class Share:
    """Turns the share that is done of some units of a task, from 0 to 1, into advances of the task."""

    def __init__(self, task: Task, units: int = 1) -> None:
        self._task = task
        self._units = units
        self._done = 0.0

    def __call__(self, share: float) -> None:
        """Report that ``share`` of the units is done."""
        self._task.advance(self._units * (share - self._done))
        self._done = share


class _SilentTask:
    def advance(self, amount: float = 1, *, note: str = "") -> None:
        pass


class _Bar:
    def __init__(self, bars: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._bars.update(self._task, advance=amount, note=note)


class _Lines:
    """Logs how far a task has come, a line now and then."""

    def __init__(self, description: str, total: float | None, clock: Callable[[], float]) -> None:
        self._description, self._total, self._clock = description, total, clock
        self._done = 0.0
        self._start = self._told = clock()

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self._done += amount
        now = self._clock()
        if now < self._told + LINE_EVERY or not self._total or self._done <= 0:
            return
        self._told = now
        left = (now - self._start) * (self._total / self._done - 1)
        _log.info("%s: %.0f %% done, about %s left", self._description, 100 * self._done / self._total, in_words(left))


class _StderrHandler(logging.Handler):
    """Prints on `STDERR`, whose file is whatever ``sys.stderr`` is at the moment, without breaking long lines."""

    def emit(self, record: logging.LogRecord) -> None:
        STDERR.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
