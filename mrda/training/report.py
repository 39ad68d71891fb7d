"""What a run tells about itself: scalars and pictures for TensorBoard, JSON lines, and progress on the terminal."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from mrda.core.files import write_text
from mrda.photo.images import Source
from mrda.training.errors import RunRefusedError

if TYPE_CHECKING:
    from mrda.training.validation import Found


LOG = "log.jsonl"


def check_log(folder: Path) -> None:
    """Refuse a log that can't be gone on with.

    Raises:
        RunRefusedError: a line of ``folder``'s log is not a record.
    """
    _records(folder / LOG)


class ScalarLog:
    """Scalars of one stage, averaged between records: ``log.jsonl`` and TensorBoard events in ``folder``.

    Args:
        folder: the stage's folder; made if missing.
        start: steps that are finished already; later records of an interrupted run are dropped.
        writes: False keeps the means, but writes nothing: of several processes one writes.

    Raises:
        RunRefusedError: see `check_log`.
    """

    def __init__(self, folder: Path, start: int, *, writes: bool = True) -> None:
        self.path = folder / LOG
        self.writer: SummaryWriter | None = None
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(line for step, line in _records(self.path) if step <= start))
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def add(self, scalars: Mapping[str, float]) -> None:
        """Count the scalars of one step in."""
        for name, value in scalars.items():
            self.sums[name] += value
            self.counts[name] += 1

    def record(self, step: int, **latest: float) -> dict[str, float]:
        """Write the means since the last record, and ``latest`` as they are, under ``step``; returns them."""
        scalars = {name: self.sums[name] / self.counts[name] for name in self.sums} | latest
        self.sums.clear()
        self.counts.clear()
        self._write(step, scalars)
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)
        return scalars

    def skipped(self, step: int, fault: str) -> None:
        """Write that a step was skipped, and why."""
        self._write(step, {"skipped": fault})

    def validated(self, step: int, found: Found) -> None:
        """Write a validation's results; its pictures go to TensorBoard."""
        curve = None if found.curve is None else [_finite(round(value, 4)) for value in found.curve]
        values = {"psnr_y": found.psnr_y, "ssim_y": found.ssim_y, "psnr_y_bicubic": found.psnr_y_bicubic}
        finite = {name: _finite(value) for name, value in values.items()}
        self._write(step, {"validation": finite | ({} if curve is None else {"adaptation_curve": curve})})
        if self.writer is None:
            return
        for name, value in values.items():
            self.writer.add_scalar(f"validation/{name}", value, step)
        for name, picture in found.pictures.items():
            self.writer.add_image(f"validation/{name}", picture, step)
        for number, value in enumerate(found.curve or ()):
            self.writer.add_scalar(f"adaptation/psnr_y_after_{number:02d}_steps", value, step)

    def _write(self, step: int, content: Mapping[str, Any]) -> None:
        if self.writer is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **content}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()


def _finite(value: float) -> float | None:
    """The value as JSON can hold it."""
    return value if math.isfinite(value) else None


def _records(path: Path) -> list[tuple[int, str]]:
    """The records of a log: their steps, and their lines as they are."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue  # half a line, at the end, that a killed run has left
        try:
            record = json.loads(line.decode("utf-8"))
            step = record["step"] if isinstance(record, dict) else None
        except (ValueError, KeyError):
            step = None
        if not isinstance(step, int):
            raise RunRefusedError(
                f"line {number} of {path} is not a record that a run writes: delete it, or train anew without resuming"
            )
        found.append((step, line.decode("utf-8")))
    return found


class Bars:
    """Progress with the time that is left: bars on a terminal, elsewhere a line for each record.

    Args:
        show: False shows nothing.
        work: amount of work in the whole run, in any unit.
    """

    def __init__(self, show: bool, work: float) -> None:
        self.console = Console(stderr=True, quiet=not show)
        self.progress = Progress(
            TextColumn("{task.description:<15}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not (show and self.console.is_terminal),
        )
        self.whole = self.progress.add_task("training", total=work, note="")
        self.total, self.finished, self.measured = work, 0.0, 0.0
        self.began = time.monotonic()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, message: str) -> None:
        """One line on stderr, above the bars."""
        self.console.print(f"mrda: {message}", markup=False, highlight=False, soft_wrap=True)

    def reading(self, sources: Iterable[Source], total: int) -> Iterator[Source]:
        """Show how many of ``total`` photos have been read."""
        job = self.progress.add_task("reading photos", total=total, note="")
        for source in sources:
            yield source
            self.progress.advance(job)

    def skip(self, work: float) -> None:
        """Count work that turned out to be done already."""
        self.finished += work
        self.progress.advance(self.whole, work)

    def stage(self, name: str, steps: int, start: int, work: Callable[[int], float]) -> Callable[[str], None]:
        """Open the bar of a stage of which ``start`` steps are done; the first n steps are ``work(n)``.

        Returns:
            A function that counts one step and shows a note beside the bar.
        """
        job = self.progress.add_task(name, total=steps, completed=start, note="")
        done = start
        self.skip(work(start))

        def advance(note: str) -> None:
            nonlocal done
            share = work(done + 1) - work(done)
            self.measured += share
            self.finished += share
            self.progress.update(job, advance=1, note=note)
            self.progress.advance(self.whole, share)
            done += 1

        return advance

    def record(self, stage: str, done: int, steps: int, scalars: Mapping[str, float]) -> None:
        """Where there is no terminal for bars, print what a record of the log says, and the time that is left."""
        if self.console.is_terminal:
            return
        parts = [f"{stage} {done}/{steps}"]
        for name, form in (
            ("loss", "{:.5f}"),
            ("lr", "{:.2e}"),
            ("images_per_second", "{:.1f}"),
            ("data_wait", "{:.0%}"),
        ):
            if name in scalars:
                parts.append(f"{name} {form.format(scalars[name])}")
        if self.measured:
            left = (time.monotonic() - self.began) * (self.total - self.finished) / self.measured
            parts.append(f"left {timedelta(seconds=round(left))}")
        self.console.print("  ".join(parts), markup=False, highlight=False, soft_wrap=True)
