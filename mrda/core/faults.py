# SPDX-License-Identifier: Apache-2.0
"""Errors of the system and of libraries, told to a user in a few words."""

from __future__ import annotations

import errno

_REASONS = {
    errno.ENOSPC: "the disk is full (no space left)",
    errno.EDQUOT: "the disk is full: your quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EFBIG: "the file would be larger than the file system or the limit of this process allows",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EIO: "the disk reports an input/output error",
}
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors by which the next file can't be written either."""


def reason(error: BaseException) -> str:
    """Return the reason of an error in a few words, without a full stop.

    Errors of the system are told without the file's name, which they would repeat; of other errors this is the first
    sentence, or the error's class if it says nothing.
    """
    if isinstance(error, OSError) and (known := _REASONS.get(error.errno or 0)):
        return known
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")


def is_storage_fault(error: OSError) -> bool:
    """Return True for an error of the disk, not of the program: it is full, read-only or damaged, or a limit is met."""
    return error.errno in _REASONS


def is_full(error: BaseException) -> bool:
    """Return True if the next file can't be written to this disk either."""
    return isinstance(error, OSError) and error.errno in FULL
