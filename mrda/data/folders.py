# SPDX-License-Identifier: Apache-2.0
"""Folders that are created completely or not at all."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mrda.core.files import sync


@contextmanager
def whole_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`, and rename it to `path` if the block succeeds.

    If the block raises (including Ctrl-C), the temporary folder is removed and `path` stays as it was. A process that
    is killed leaves a folder named `.NAME.XXXXXXXX.part` behind.

    Args:
        path: the folder to make; its parent is made if missing.
        replace: replace an existing folder.

    Yields:
        The folder to fill, in the same parent, so that the rename never crosses a file system.

    Raises:
        FileExistsError: `path` exists, and `replace` is False.
        OSError: a folder can't be made or renamed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp = uuid.uuid4().hex[:8]
    temporary, replaced = (path.with_name(f".{path.name}.{stamp}.{end}") for end in ("part", "old"))
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        if os.path.lexists(path):
            if not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            path.rename(replaced)
        try:
            temporary.rename(path)
        except OSError:
            if replaced.exists():
                replaced.rename(path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Wait until all files are on the disk, so that they are complete even if the power fails after the rename."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as opened:
                sync(opened.fileno())
