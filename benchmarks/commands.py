# SPDX-License-Identifier: Apache-2.0
"""The commands of the benchmarks: options, refusals, progress, records on the disk and on the terminal."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks import tables
from benchmarks.harness import Effort
from benchmarks.peers import reasons
from benchmarks.records import OURS, Record, Setting, is_measured
from mrda.core.files import write_text
from mrda.core.memory import keep_freed_memory

EFFORT = {"cpu": Effort(max_seconds=90.0), "cuda": Effort(seconds=0.4, max_seconds=4.0)}
SETTING_SECONDS = {"cpu": 6.0, "cuda": 1.8}  # about the time of a setting without compiling
COMPILE_SECONDS = 25.0  # about the time to compile a setting's peers


def parser(description: str) -> argparse.ArgumentParser:
    """A parser of a benchmark's options; the first sentence of its module's docstring serves as description."""
    result = argparse.ArgumentParser(description=description.split("\n\n")[0], allow_abbrev=False)
    result.add_argument("--json", type=Path, metavar="FILE", help="write the records to this file")
    return result


def comparison_parser(description: str, quick: str) -> argparse.ArgumentParser:
    """A parser of the options of a benchmark that compares providers; `quick` describes --quick."""
    result = parser(description)
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (default: cpu)")
    result.add_argument("--quick", action="store_true", help=quick)
    result.add_argument("--keep-memory", action="store_true", help="let the C library keep freed memory, as mrda does")
    result.add_argument("--time-limit", type=float, metavar="SECONDS", help="leave out peers, then settings, at need")
    return result


def check_json(command: argparse.ArgumentParser, path: Path | None) -> None:
    """Refuse a file in a missing folder, before any work."""
    if path is not None and not path.absolute().parent.is_dir():
        command.error(f"--json is {path}, but its folder does not exist")


def run_comparison(
    command: argparse.ArgumentParser,
    options: argparse.Namespace,
    settings: Sequence[Setting],
    measure: Callable[[Setting, Effort], list[Record]],
) -> NoReturn:
    """Measure all settings in their order, write the file after each of them, print everything, and exit."""
    check_json(command, options.json)
    if options.time_limit is not None and not options.time_limit > 0:
        command.error(f"--time-limit is {options.time_limit}, but must be above 0")
    if options.device == "cuda" and not torch.cuda.is_available():
        command.error("--device is cuda, but torch finds no NVIDIA GPU here")
    found = reasons(options.device)
    if None not in found.values():
        why = "; ".join(f"{name}: {reason}" for name, reason in found.items())
        command.error(f"there is nothing to measure on {options.device}: {why}")
    if options.keep_memory:
        keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # on a GPU, everybody's static convolutions are cuDNN's fastest
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32

    end = None if options.time_limit is None else time.monotonic() + options.time_limit
    records: list[Record] = []
    for index, setting in enumerate(settings):
        todo = len(settings) - index
        effort = effort_for(options.device, index, todo, None if end is None else end - time.monotonic())
        if effort is None:
            print(f"{todo} of {len(settings)} settings left out: the time limit has passed", file=sys.stderr)
            break
        progress(index, len(settings), setting)
        records += measure(setting, effort)
        if options.json is not None:  # whole each time, so that an interrupted run leaves the records it has
            write_text(options.json, json.dumps(records, indent=1) + "\n")
    finish(records)


def effort_for(device: str, done: int, todo: int, left: float | None) -> Effort | None:
    """The effort for the next of `todo` settings, with `left` seconds (None: no limit); None if no time is left.

    The peers of the first setting, the most important, are compiled; those of others if all to come keep their time.
    """
    if left is None:
        return EFFORT[device]
    compiles = left - (todo * SETTING_SECONDS[device] if done else 0) >= COMPILE_SECONDS
    return replace(EFFORT[device], compiles=compiles) if left > 0 else None


def finish(records: Sequence[Record]) -> NoReturn:
    """Print the times and their meaning, and exit: with 1 if one of our own ways failed or nothing was measured."""
    if records:
        print(tables.document(records), end="")
    broken = [r for r in records if not is_measured(r) and r["provider"].startswith(OURS)]
    for r in broken:
        where = f"{r['op']} {tuple(r['shape'])} {r['dtype']} {r['layout']} {r['mode']} ({r['launch']})"
        print(f"{r['provider']} failed on {where}: {r['absent']}", file=sys.stderr)
    sys.exit(1 if broken or not records else 0)


def progress(done: int, total: int, what: object) -> None:
    """Say what comes next on a terminal; for use between settings, because drawing would disturb the times."""
    if sys.stderr.isatty():
        print(f"\r\033[K{done + 1}/{total}  {what}", end="", file=sys.stderr, flush=True)
