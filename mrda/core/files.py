# SPDX-License-Identifier: Apache-2.0
"""Files that are written completely or not at all, and folders."""

import csv
import errno
import hashlib
import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mrda.core.faults import reason

_LONGEST_NAME = 255  # bytes, of almost every file system
_BLOCK = 4096  # bytes that a file takes on most file systems, at least
_LONGEST_SUFFIX = 16  # characters that a temporary name keeps
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # of network shares and FUSE
TEMPORARY = re.compile(r"\.mrda-(?P<target>[0-9a-f]{16})-[0-9a-f]{8}(?P<suffix>\.[^/]+)?", re.DOTALL)
"""Names of the temporary files of `atomic_write`; see `temporary_key` for the target."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a temporary file beside `path`, open for writing, and rename it to `path` when the block succeeds.

    If the block raises (also on Ctrl-C), or if any write has failed, even one whose error the block has swallowed, the
    temporary file is removed and `path` is left as it was. The name of the temporary file is short whatever that of
    `path`, keeps its suffix, and is different in every call, so that two writers do not share it. `remove_leftovers`
    removes the temporary files of killed processes.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        A buffered binary file, which can be sought in but not read. It has no file descriptor, because encoders that
        write to one on their own, as Pillow's do, take a full disk for success. Its `name` is the temporary path, in
        the same folder, so that the rename never crosses a file system.

    Raises:
        OSError: a write has failed, such as on a full disk, in place of whatever error the block made of it.
    """
    path = Path(path)
    check_name(path)
    temporary = _beside(path)
    with _naming(path, temporary):
        raw = _Raw(temporary, "x")
    file = _File(raw)
    try:
        with _naming(path, temporary):
            try:
                yield file
                file.flush()
            except Exception as error:
                if raw.fault is None or raw.fault is error:
                    raise
                raise raw.fault from error
            if raw.fault is not None:
                raise raw.fault
            sync(raw.fileno())  # so that a power cut leaves the old file or the new one
            file.close()  # an error of closing, of a network share for one, counts too
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            raw.close()  # without another attempt to write what is left in the buffer
        with suppress(OSError, ValueError):
            file.close()
        with suppress(OSError):  # of a disk that has become read-only, for one; the error before it counts
            temporary.unlink()


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Name the file in errors that name none, or the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename) == str(temporary)):
            error.filename, error.filename2 = os.fspath(path), None
        raise


class _RefrainedError(Exception):
    """The file is not wanted."""


class _Raw(io.FileIO):
    """Remembers the first error of writing, because some writers swallow it or make another one of it."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.fault = self.fault or error
            raise


class _File(io.BufferedWriter):
    """Hides the file descriptor."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("write through this object: it sees when the disk is full")


def sync(descriptor: int) -> None:
    """Wait until a file is on the disk, or go on at once if its file system can't tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files of killed calls of `atomic_write(path)`; no other process may be writing `path`."""
    path = Path(path)
    key = temporary_key(path.name)
    for leftover in path.parent.glob(".mrda-*"):
        match = TEMPORARY.fullmatch(leftover.name)
        if match is not None and match["target"] == key:
            leftover.unlink(missing_ok=True)


def temporary_key(name: str) -> str:
    """Return the part of a temporary file's name that stands for its target's name."""
    return hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, by `atomic_write`; names of files that are not UTF-8 keep their bytes."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV in UTF-8, by `atomic_write`.

    Args:
        path: the file.
        header: the names of the columns.
        rows: rows as long as the header; floats are written with all their digits, None as an empty field.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


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
        raise ValueError(f"the {name} {path} can't be created: {reason(error)}") from None


@contextmanager
def new_folder(path: Path, name: str) -> Iterator[None]:
    """Create a folder as `make_folder` does; if the block raises, take back what was created, unless it is in use."""
    missing = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    try:
        make_folder(path, name)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()  # which refuses folders with anything in them
        raise


def check_name(path: str | Path) -> None:
    """Check that a file's name is not too long for its folder, or for the one that the folder would be created in.

    Raises:
        OSError: it is too long, counted in bytes.
    """
    path = Path(path)
    present = next((folder for folder in path.parents if os.path.isdir(folder)), Path())
    longest = _LONGEST_NAME
    with suppress(OSError, ValueError, AttributeError):
        longest = os.pathconf(present, "PC_NAME_MAX")
    if len(os.fsencode(path.name)) > longest:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fspath(path))


def check_writable(path: str | Path) -> None:
    """Check that `atomic_write` can write a small file as `path`, without leaving a file.

    Raises:
        OSError: the folder is missing or not writable, the disk is full, or the name is too long.
    """
    with suppress(_RefrainedError), atomic_write(path) as file:
        file.write(bytes(_BLOCK))
        file.flush()
        raise _RefrainedError


def _beside(path: Path) -> Path:
    suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
    return path.with_name(f".mrda-{temporary_key(path.name)}-{secrets.token_hex(4)}{suffix}")
