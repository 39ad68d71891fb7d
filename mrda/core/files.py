"""Files that are either whole or absent."""

import csv
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    Where the block raises (Ctrl-C included) the temporary file is removed and `path` is left as it was. The
    temporary name keeps the suffix of `path`, because many writers choose the format by it. It is another one each
    time, so that two writers do not meet in it; what a kill leaves under it is for `remove_leftovers`.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        The path to write to, in the same folder, so that the rename never crosses a file system.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # on the disk before the name is, so that a power cut keeps one of both
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files that a killed `atomic_write` of `path` has left; nobody must be writing `path` now."""
    path = Path(path)
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}{re.escape(path.suffix)}")
    for leftover in path.parent.glob(".*"):
        if pattern.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8; it appears whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table in UTF-8; it appears whole or not at all.

    Args:
        path: the file.
        header: the names of the columns.
        rows: as long as the header each; floats are written so that they read back to the bit, None as nothing.
    """
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def make_folder(path: Path, name: str) -> None:
    """Make a folder and those above it, unless it exists.

    Args:
        path: the folder.
        name: its name in the message, such as "output folder".

    Raises:
        ValueError: it can't be made; the message says why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"the {name} {path} can't be made: it is a file") from None
    except OSError as error:
        raise ValueError(f"the {name} {path} can't be made: {error.strerror}") from None


def check_writable(path: str | Path) -> None:
    """Try whether `atomic_write` could write `path`, and leave no trace.

    Raises:
        OSError: the folder is missing, not writable, or the name is too long.
    """
    temporary = _beside(Path(path))
    temporary.touch()
    temporary.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
