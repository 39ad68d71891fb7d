# SPDX-License-Identifier: Apache-2.0
"""Files that are written completely or not at all, and folders."""

import csv
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    If the block raises (also on Ctrl-C), the temporary file is removed and `path` is left as it was. The temporary name
    keeps the suffix of `path`, because many writers choose the format by it, and is different in every call, so that
    two writers do not share it. `remove_leftovers` removes the temporary files of killed processes.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        The path to write to, in the same folder, so that the rename never crosses a file system.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # so that a power cut leaves the old file or the new one
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files of killed calls of `atomic_write(path)`; no other process may be writing `path`."""
    path = Path(path)
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}{re.escape(path.suffix)}")
    for leftover in path.parent.glob(".*"):
        if pattern.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, by `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV in UTF-8, by `atomic_write`.

    Args:
        path: the file.
        header: the names of the columns.
        rows: rows as long as the header; floats are written with all their digits, None as an empty field.
    """
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def make_folder(path: Path, name: str) -> None:
    """Create a folder and its parents, unless it exists.

    Args:
        path: the folder.
        name: its name in messages, such as "output folder".

    Raises:
        ValueError: it can't be created; the message says why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"the {name} {path} can't be created: it is a file") from None
    except OSError as error:
        raise ValueError(f"the {name} {path} can't be created: {error.strerror}") from None


def check_writable(path: str | Path) -> None:
    """Check that `atomic_write` can write `path`, without leaving a file.

    Raises:
        OSError: the folder is missing, not writable, or the name is too long.
    """
    temporary = _beside(Path(path))
    temporary.touch()
    temporary.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
