"""Disks that fill up in the midst of a file."""

import os
import resource
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def files_of(size):
    """No file of this process can grow beyond so many bytes: the system itself cuts writes short, and then refuses.

    This also meets encoders in C that write to a descriptor. Python ignores the signal that comes with it.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def disk_of(folder, size):
    """A small file system at ``folder``; skips the test where it can't be mounted."""
    folder.mkdir(exist_ok=True)
    options = f"size={size}"
    mounted = (
        os.name == "posix"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("a file system can't be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def whole_or_not(write, path, length, sizes):
    """Try to replace ``path`` on disks of many sizes; returns how many there were that held it and that did not.

    Args:
        write: writes the file, or raises an OSError.
        path: the file; its folder must be empty otherwise.
        length: the length of the whole file.
        sizes: bytes that a file may have.
    """
    old = b"old"
    counts = {"whole": 0, "refused": 0}
    for size in sizes:
        path.write_bytes(old)
        with files_of(size):
            try:
                write(path)
                counts["whole"] += 1
            except OSError:
                counts["refused"] += 1
        content = path.read_bytes()
        assert content == old or len(content) == length, f"a file of {len(content)} of {length} bytes at {size}"
        assert (content == old) == (size < length), size
        assert [entry.name for entry in path.parent.iterdir()] == [path.name], size
    return counts
