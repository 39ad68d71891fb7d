"""What a run tells about itself: scalars for TensorBoard and in JSON lines, and progress bars."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from mrda.files import atomic_write
from mrda.images import Source


class ScalarLog:
    """Scalars of one stage, averaged between records: ``log.jsonl`` and TensorBoard events in ``folder``.

    Args:
        folder: the stage's folder; made if missing.
        start: steps that are finished already; later records of an interrupted run are dropped.
    """

    def __init__(self, folder: Path, start: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        # A killed run may have left half a line at the end.
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= start]
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

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
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        return scalars

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()


class Bars:
    """Progress bars with the time that is left: one for the whole run, one for the job at hand.

    Args:
        show: False shows nothing.
        work: amount of work in the whole run, in any unit.
    """

    def __init__(self, show: bool, work: float) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<15}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            disable=not show,
        )
        self.whole = self.progress.add_task("training", total=work, note="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def reading(self, sources: Iterable[Source], total: int) -> Iterator[Source]:
        """Show how many of ``total`` photos have been read."""
        job = self.progress.add_task("reading photos", total=total, note="")
        for source in sources:
            yield source
            self.progress.advance(job)

    def skip(self, work: float) -> None:
        """Count work that turned out to be done already."""
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
            self.progress.update(job, advance=1, note=note)
            self.progress.advance(self.whole, work(done + 1) - work(done))
            done += 1

        return advance
