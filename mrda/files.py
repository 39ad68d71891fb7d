"""Files that are either whole or absent."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    Where the block raises (Ctrl-C included) the temporary file is removed and `path` is left as it was. The
    temporary name keeps the suffix of `path`, because many writers choose the format by it.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        The path to write to, in the same folder, so that the rename never crosses a file system.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
