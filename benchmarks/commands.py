"""What the commands of the benchmarks have in common: options, refusals, a line of progress, records as they come."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TextIO

import torch

from benchmarks.measuring import EFFORT, Effort, failures
from benchmarks.providers import why_nothing_to_measure
from benchmarks.records import Record, Setting, save
from mrda.core.memory import keep_freed_memory

SETTING_SECONDS = {"cpu": 6.0, "cuda": 1.8}  # that a setting takes, about, besides compiling

SHARE = 0.2

Measure = Callable[[Setting, Effort], list[Record]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of a benchmark's options; the module's docstring serves as description."""
    summary = (description or "").split("\n\n")[0]
    result = argparse.ArgumentParser(description=summary, allow_abbrev=False)
    result.add_argument("--json", type=Path, metavar="FILE", help="write the records to this file")
    return result


def comparison_parser(description: str | None, quick: str) -> argparse.ArgumentParser:
    """A parser of the options of a benchmark that compares providers; `quick` says what --quick measures."""
    result = parser(description)
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (default: cpu)")
    result.add_argument("--quick", action="store_true", help=quick)
    result.add_argument(
        "--keep-memory", action="store_true", help="let the C library keep freed memory, as the program mrda does"
    )
    result.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="leave out compiled peers, then settings, as far as needed to end in about this time (default: none)",
    )
    return result


def check_json(command: argparse.ArgumentParser, path: Path | None) -> None:
    """Refuse a file whose folder is missing, before any work."""
    if path is not None and not path.absolute().parent.is_dir():
        command.error(f"--json is {path}, but its folder does not exist")


def check_measurable(command: argparse.ArgumentParser, device: str) -> None:
    """Refuse a device that is missing, or that none of our backends can serve."""
    if device == "cuda" and not torch.cuda.is_available():
        command.error("--device is cuda, but torch finds no NVIDIA GPU here")
    reason = why_nothing_to_measure(device)
    if reason is not None:
        command.error(f"there is nothing to measure on {device}: {reason}")


def run_comparison(
    command: argparse.ArgumentParser, options: argparse.Namespace, settings: Sequence[Setting], measure: Measure
) -> list[Record]:
    """Check the options, measure all settings in their order, and write the file after each of them."""
    check_json(command, options.json)
    if options.time_limit is not None and not options.time_limit > 0:
        command.error(f"--time-limit is {options.time_limit}, but must be above 0")
    check_measurable(command, options.device)
    if options.keep_memory:
        keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # on a GPU, everyone's static convolutions are cuDNN's fastest

    budget = Budget(options.device, options.time_limit)
    records: list[Record] = []
    progress = Progress(len(settings))
    for index, setting in enumerate(settings):
        effort = budget.effort(todo=len(settings) - index)
        if effort is None:
            progress.end(f"{len(settings) - index} of {len(settings)} settings left out: the time limit has passed")
            break
        progress.show(index, str(setting))
        records += measure(setting, effort)
        if options.json is not None:  # whole each time, so that a run that is cut off leaves what it has
            save(options.json, records)
    else:
        progress.end()
    return records


def end(records: Sequence[Record]) -> NoReturn:
    """Exit: with 1 where something of ours failed."""
    broken = failures(records)
    for sentence in broken:
        print(sentence, file=sys.stderr)
    sys.exit(1 if broken or not records else 0)


class Budget:
    """Shares out a run's time: what the settings to come need to be measured is kept, the rest goes into compiling.

    But a SHARE of the time left may go into compiling in any case. So the first settings, which should be the most
    important ones, have their peers compiled, and the last ones are left out where time runs short.
    """

    def __init__(self, device: str, seconds: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._effort = EFFORT[device]
        self._each = SETTING_SECONDS[device]
        self._now = now
        self._end = None if seconds is None else now() + seconds

    def effort(self, todo: int) -> Effort | None:
        """The effort for the next of `todo` settings; None where no time is left."""
        if self._end is None:
            return self._effort
        left = self._end - self._now()
        if left <= 0:
            return None
        slack = left - todo * self._each
        seconds = max(slack, SHARE * left) / 2  # a setting has two compiled peers
        return replace(self._effort, compile_seconds=min(self._effort.compile_seconds, seconds))


class Progress:
    """A line on a terminal's standard error, drawn between settings only: drawing would disturb the times."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._start = time.monotonic()

    def show(self, done: int, what: str) -> None:
        """Say what comes next, and for how long it has been running."""
        if self._stream.isatty():
            minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
            self._stream.write(f"\r\033[K{done + 1}/{self._total}  {minutes}:{seconds:02}  {what}")
            self._stream.flush()

    def end(self, message: str | None = None) -> None:
        """Take the line away; a last message stays, on a terminal or not."""
        if self._stream.isatty():
            self._stream.write("\r\033[K")
        if message is not None:
            self._stream.write(f"{message}\n")
        self._stream.flush()
