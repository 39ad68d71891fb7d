"""Freed memory is kept: the next tensor of the same size is not fresh."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys

import torch

from mrda.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
size, rounds = 8 << 20, 20


def touch():
    # by its own rule glibc keeps freed memory of two such tensors at most
    return [torch.ones(size, dtype=torch.uint8) for _ in range(6)]


for _ in range(5):
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(rounds):
    touch()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / rounds)
"""


def faults(mode):
    result = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return float(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_kept():
    # A round touches 48 MiB: 12288 pages of 4 KiB, 24 of 2 MiB. Kept memory is mapped already.
    assert faults("kept") < 12 < faults("default")
