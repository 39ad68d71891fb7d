# SPDX-License-Identifier: Apache-2.0
"""Object stores by URIs such as s3://bucket/folder.

pyarrow has the file systems of S3, Google Cloud Storage and Azure, fsspec those of other schemes; both come with the
extra `ray`, and are imported when a store is first used.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from mrda.core.faults import reason

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://", re.DOTALL)
_WHOLE = ("s3", "gcs", "abfs")  # types of file systems where an object appears when all of it is there


def is_stored(place: str | os.PathLike[str]) -> bool:
    """Check that a place is the URI of an object store, not a path."""
    return _URI.match(os.fspath(place)) is not None


def without_query(uri: str) -> str:
    """Return a URI without the options of its connection, such as ?endpoint_override=..., and without a last slash."""
    return uri.partition("?")[0].rstrip("/")


def list_files(uri: str, recursive: bool) -> list[str] | None:
    """List the files of a folder in a store, by their names relative to it; None if the URI is that of a file.

    Raises:
        ValueError: there is nothing, or the store does not answer; the message is one sentence.
    """
    store = connect(uri)
    with _telling(f"cannot list {store.uri}"):
        if store.is_file(""):
            return None
        names = store.names(recursive)
    if not names:
        raise ValueError(f"cannot list {store.uri}: there is no such folder or file, or it is empty")
    return names


@lru_cache
def connect(uri: str) -> Store:
    """Connect to a folder in a store; once in a process.

    Raises:
        ValueError: nothing here knows the scheme, or the URI is not valid; the message is one sentence.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    # Of a name only what a URI cannot hold is escaped, so that both spellings of a blank are one.
    escaped = quote(uri, safe="%/:?=&@+~,;!$'()*[]")
    if uri.startswith("s3://"):
        escaped += f"{'&' if '?' in uri else '?'}allow_delayed_open=true"  # one request for a small object, not three
    with _telling(f"cannot open {without_query(uri)}"):
        try:
            system, base = FileSystem.from_uri(escaped)
        except ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise
            from fsspec.core import url_to_fs

            found, base = url_to_fs(uri)
            system = PyFileSystem(FSSpecHandler(found))
    return Store(without_query(uri), system, base.rstrip("/"))


class Store:
    """A folder in an object store.

    Args:
        uri: its URI, for messages.
        system: a file system of pyarrow.
        base: the folder in that file system.
    """

    def __init__(self, uri: str, system: Any, base: str) -> None:
        self.uri = uri
        self._system = system
        self._base = base

    def is_file(self, name: str) -> bool:
        """Check that there is a file of that name; "" is the folder's own. Raises OSError."""
        from pyarrow.fs import FileType

        return bool(self._system.get_file_info(self._path(name)).type == FileType.File)

    def names(self, recursive: bool = True) -> list[str]:
        """List the files by their names relative to the folder, none if it is missing; raises OSError."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._base, recursive=recursive, allow_not_found=True)
        start = len(self._base) + 1
        return [info.path[start:] for info in self._system.get_file_info(selector) if info.type == FileType.File]

    def read(self, name: str) -> bytes:
        """Read a file; raises OSError."""
        with self._system.open_input_file(self._path(name)) as file:
            return file.read(file.size())  # one request besides that for the size

    def write(self, name: str, content: bytes) -> None:
        """Write a file, completely or not at all; raises OSError.

        All of the content is there before the file is opened, because pyarrow completes what an error has cut short.
        """
        path = self._path(name)
        if self._system.type_name in _WHOLE:
            self._put(path, content)
            return
        folder = path.rpartition("/")[0]
        self._system.create_dir(folder, recursive=True)
        temporary = f"{folder}/.mrda-{secrets.token_hex(8)}"
        try:
            self._put(temporary, content)
            self._system.move(temporary, path)
        except BaseException:
            with suppress(OSError):
                self._system.delete_file(temporary)
            raise

    def _put(self, path: str, content: bytes) -> None:
        file = self._system.open_output_stream(path)
        file.write(content)
        file.close()  # an error of closing counts too

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turn errors of a store into a ValueError of one sentence, unless they are one."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{what}: {reason(error)}") from error
