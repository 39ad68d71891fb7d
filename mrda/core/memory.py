# SPDX-License-Identifier: Apache-2.0
"""Memory of the process: the C library's settings, and the memory that is free."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGEST_HEAP_BLOCK = 32 << 20  # bytes; the largest mmap threshold that glibc accepts


def keep_freed_memory() -> None:
    """Let the C library keep freed memory, for programs that compute on the CPU; does nothing without glibc.

    By default, glibc returns the memory of a freed tensor to the system and requests it again for the next one; the
    page faults on the new memory can take as long as a convolution. The setting applies to the whole process, so that
    programs should choose it, not libraries. The memory kept never exceeds the peak use of the process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device; 1 GiB if the system does not report them."""
    if device.type == "cuda":
        import torch  # not above, because every command begins here, and importing it takes seconds

        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return min(1024 * int(line.split()[1]), _container_memory())
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 1 << 30


def _container_memory() -> int:
    """Return the bytes that this container may still allocate (Linux, control groups 2); 2^63-1 if unlimited."""
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    if not (limit.is_file() and used.is_file()):
        return 2**63 - 1
    text = limit.read_text(encoding="ascii").strip()
    return int(text) - int(used.read_text(encoding="ascii")) if text.isdecimal() else 2**63 - 1
