"""How the process gets its memory from the system."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGEST_HEAP_BLOCK = 32 << 20  # bytes; glibc takes no larger mmap threshold


def keep_freed_memory() -> None:
    """Let the C library keep freed memory, for programs that compute on the CPU; does nothing without glibc.

    By default glibc hands the memory of a freed tensor back to the system and asks for it again at the next one;
    the page faults on that fresh memory can take as long as a convolution. It is a setting of the whole process,
    so it is for programs to choose, not for libraries. What is kept is no more than the process once needed.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
