# SPDX-License-Identifier: Apache-2.0
"""The log of a stage (JSON lines and a tracker such as TensorBoard), and the progress of a run."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate.tracking import GeneralTracker

from mrda.config import StageName, TrainConfig
from mrda.core.faults import is_storage_fault
from mrda.core.files import write_text
from mrda.core.progress import Progress, Task
from mrda.training.checkpoints import RunRefusedError
from mrda.training.plan import cost
from mrda.training.trackers import TENSORBOARD, log_pictures, start_tracker
from mrda.training.validation import ValidationResult

LOG = "log.jsonl"

logger = logging.getLogger(__name__)


def check_log(folder: Path) -> None:
    """Check that a stage can continue the log in its folder.

    Raises:
        RunRefusedError: a line of the log is not a record.
    """
    _records(folder / LOG)


class ScalarLog:
    """Scalars of one stage, averaged between records: ``log.jsonl`` in ``folder``, and a tracker.

    Args:
        folder: the stage's folder; made if missing.
        tracker: name of the tracker, see `mrda.training.trackers`; TensorBoard's events are in ``folder`` too.
        start: number of finished steps; later records of an interrupted run are deleted.
        writes: False computes the means, but writes nothing, for all processes except one.

    Raises:
        RunRefusedError: see `check_log`.
    """

    def __init__(self, folder: Path, start: int, *, tracker: str = TENSORBOARD, writes: bool = True) -> None:
        self.path = folder / LOG
        self.tracker: GeneralTracker | None = None
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(line for step, line in _records(self.path) if step <= start))
        self._hook, threading.excepthook = threading.excepthook, self._in_thread
        try:
            self.tracker = start_tracker(tracker, folder, start)
        except BaseException:
            threading.excepthook = self._hook
            raise

    def add(self, scalars: Mapping[str, float]) -> None:
        """Add the scalars of one step to the means."""
        for name, value in scalars.items():
            self.sums[name] += value
            self.counts[name] += 1

    def record(self, step: int, **latest: float) -> dict[str, float]:
        """Write the means since the last record, and ``latest`` as they are; returns all of them."""
        scalars = {name: self.sums[name] / self.counts[name] for name in self.sums} | latest
        self.sums.clear()
        self.counts.clear()
        self._write(step, scalars)
        if self.tracker is not None:
            self.tracker.log(scalars, step=step)
        return scalars

    def skipped(self, step: int, fault: str) -> None:
        """Write that a step was skipped, and the reason."""
        self._write(step, {"skipped": fault})

    def validated(self, step: int, found: ValidationResult) -> None:
        """Write a validation's results; its pictures go to the tracker, if it takes any."""
        curve = None if found.curve is None else [_finite(round(value, 4)) for value in found.curve]
        values = {"psnr_y": found.psnr_y, "ssim_y": found.ssim_y, "psnr_y_bicubic": found.psnr_y_bicubic}
        finite = {name: _finite(value) for name, value in values.items()}
        self._write(step, {"validation": finite | ({} if curve is None else {"adaptation_curve": curve})})
        if self.tracker is None:
            return
        scalars = {f"validation/{name}": value for name, value in values.items()}
        for number, value in enumerate(found.curve or ()):
            scalars[f"adaptation/psnr_y_after_{number:02d}_steps"] = value
        self.tracker.log(scalars, step=step)
        log_pictures(self.tracker, {f"validation/{name}": picture for name, picture in found.pictures.items()}, step)

    def _write(self, step: int, content: Mapping[str, Any]) -> None:
        if self.tracker is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **content}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.tracker is None:
            return
        try:
            self.tracker.finish()
        except OSError:
            if kind is None:  # otherwise this is the same again
                raise
        finally:
            threading.excepthook = self._hook

    def _in_thread(self, thread: threading.ExceptHookArgs) -> None:
        """Print no traceback for TensorBoard's thread when the disk is full: the tracker's next call raises it."""
        if not (isinstance(thread.exc_value, OSError) and is_storage_fault(thread.exc_value)):
            self._hook(thread)


def _finite(value: float) -> float | None:
    """Return the value, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _records(path: Path) -> list[tuple[int, str]]:
    """Read the records of a log: the step and the line of each."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue  # the last line, cut short when the run was killed
        try:
            record = json.loads(line.decode("utf-8"))
            step = record["step"] if isinstance(record, dict) else None
        except (ValueError, KeyError):
            step = None
        if not isinstance(step, int):
            raise RunRefusedError(
                f"line {number} of {path} is not a record that a run writes: delete it, or start over without resuming "
                "(--no-resume)"
            )
        found.append((step, line.decode("utf-8")))
    return found


class RunProgress:
    """Progress of a whole run, with the time that remains: bars, and lines in the log for readers without bars.

    Args:
        progress: shows the bars.
        config: the run's configuration.
        stages: the stages of the run.
        lines: log a line for each record.
    """

    def __init__(self, progress: Progress, config: TrainConfig, stages: Sequence[StageName], *, lines: bool) -> None:
        self.progress = progress
        self.config = config
        self.lines = lines
        self.total = sum(cost(config, name, config.stage(name).steps) for name in stages)
        self.finished = 0.0
        self.measured = 0.0
        """Cost of the steps since `start`."""
        self.start = time.monotonic()

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._run = self._stack.enter_context(self.progress.task("training", self.total))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def skip(self, name: StageName, steps: int) -> None:
        """Count the first ``steps`` steps of a stage as finished before."""
        amount = cost(self.config, name, steps)
        self.finished += amount
        self._run.advance(amount)

    @contextmanager
    def stage(self, name: StageName, done: int) -> Iterator[StageProgress]:
        """Show the progress of a stage of which ``done`` steps are finished."""
        with self.progress.task(name, self.config.stage(name).steps) as task:
            task.advance(done)
            self.skip(name, done)
            yield StageProgress(self, name, done, task)

    def advance(self, amount: float) -> None:
        """Count work of the cost ``amount`` that was done just now."""
        self.finished += amount
        self.measured += amount
        self._run.advance(amount)

    def time_left(self) -> timedelta | None:
        """Time that the rest of the run will take at the speed so far; None before the first step."""
        if not self.measured:
            return None
        seconds = (time.monotonic() - self.start) * (self.total - self.finished) / self.measured
        return timedelta(seconds=round(seconds))


class StageProgress:
    """Progress of one stage; see `RunProgress.stage`."""

    def __init__(self, run: RunProgress, name: StageName, done: int, task: Task) -> None:
        self._run = run
        self._name = name
        self._done = done
        self._task = task

    def advance(self, note: str) -> None:
        """Count one step, and show ``note`` beside the bar."""
        config, done = self._run.config, self._done
        self._run.advance(cost(config, self._name, done + 1) - cost(config, self._name, done))
        self._task.advance(note=note)
        self._done += 1

    def record(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log a line with a record of `ScalarLog`, and the time that remains."""
        if not self._run.lines:
            return
        parts = [f"{self._name} {step}/{self._run.config.stage(self._name).steps}"]
        for name, form in (
            ("loss", "{:.5f}"),
            ("lr", "{:.2e}"),
            ("images_per_second", "{:.1f}"),
            ("data_wait", "{:.0%}"),
        ):
            if name in scalars:
                parts.append(f"{name} {form.format(scalars[name])}")
        left = self._run.time_left()
        if left is not None:
            parts.append(f"left {left}")
        logger.info("%s", "  ".join(parts))
