"""Freed memory is kept: the next tensor of the same size is not fresh."""

import platform
import subprocess
import sys

import pytest

# conv2d takes and frees blocks of several sizes; by its own rule glibc then gives memory back at every call.
PROGRAM = """
import resource

import torch
import torch.nn.functional as F

from mrda.core.memory import keep_freed_memory

keep_freed_memory()
rounds = 10
features, filters = torch.ones(1, 64, 180, 320), torch.ones(64, 64, 3, 3)


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


with torch.no_grad():
    for _ in range(5):
        F.conv2d(features, filters, padding=1)
    before = faults()
    for _ in range(rounds):
        F.conv2d(features, filters, padding=1)
print((faults() - before) / rounds)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_kept():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    # The result alone is 3600 pages of 4 KiB; kept memory is mapped already.
    assert float(result.stdout) < 360
