# SPDX-License-Identifier: Apache-2.0
"""The options that the studies share, and the end of each: results go to a file, tables to a page and the terminal."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.benchmark import Timer

from mrda.core import progress
from mrda.core.files import write_text
from mrda.core.markdown import Page
from mrda.core.memory import keep_freed_memory

Item = TypeVar("Item")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of a study's options; the first line of its module's docstring serves as description."""
    result = argparse.ArgumentParser(description=(description or "").split("\n")[0], allow_abbrev=False)
    result.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    result.add_argument("--update", type=Path, metavar="FILE", help="put the tables into this file, at its markers")
    return result


def run(
    command: argparse.ArgumentParser,
    options: argparse.Namespace,
    section: str,
    measure: Callable[[], Any],
    document: Callable[[Any], str],
) -> None:
    """Check the files to write, measure, and write the results.

    Args:
        command: the study's parser; it reports an OSError or ValueError of `measure` as wrong usage.
        options: the parsed options.
        section: the name in the markers of the page to update.
        measure: gives the results, fit for JSON.
        document: makes Markdown of them, ending in a newline.
    """
    if options.json is not None and not options.json.absolute().parent.is_dir():
        command.error(f"--json is {options.json}, but its folder does not exist")
    keep_freed_memory()
    try:
        page = None if options.update is None else Page(options.update, section)
        results = measure()
    except (OSError, ValueError) as error:
        command.error(str(error))
    if options.json is not None:
        write_text(options.json, json.dumps(results, indent=1) + "\n")
    content = document(results)
    if page is not None:
        page.update(content)
    print(content, end="")


def photo_sets(folders: Sequence[Path] | None, names: Sequence[str]) -> list[Path]:
    """The folders of photo sets: those given, or else those of these names in the folder MRDA_DATA.

    Raises:
        ValueError: neither is given.
    """
    if folders is not None:
        return list(folders)
    root = os.environ.get("MRDA_DATA")
    if not root:
        raise ValueError(f"name photos by --data, or set MRDA_DATA to the folder that has {', '.join(names)}")
    return [Path(root) / name for name in names]


def track(items: Sequence[Item], description: str) -> Iterator[Item]:
    """The items, with a progress bar on the terminal."""
    return progress.track(items, len(items), description, progress.TerminalProgress())


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.0) -> dict[str, list[float]]:
    """The milliseconds of each run in each round; in a round each takes a turn of two calls to warm up and one to time.

    Args:
        runs: by name, the functions to time.
        rounds: the fewest rounds.
        seconds: rounds are started until this time has passed.
    """
    threads = torch.get_num_threads()
    timers = {name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in timers}
    start = time.monotonic()
    done = 0
    while done < rounds or time.monotonic() < start + seconds:
        for name, timer in timers.items():
            times[name].append(1000 * timer.timeit(1).median)
        done += 1
    return times
