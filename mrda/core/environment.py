# SPDX-License-Identifier: Apache-2.0
"""Descriptions of the environment: programs, machine, source revision; and what measured times depend on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mrda_kernels.backends import cpu

PACKAGES = ("mrda", "mrda-kernels", "torch", "accelerate", "numpy", "pillow", "triton")


def environment(processes: int) -> dict[str, Any]:
    """Describe the environment, for a JSON file; unknown values are None.

    Args:
        processes: number of processes of the run.
    """
    cuda = torch.cuda.is_available()
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_revision": _git("rev-parse", "HEAD"),
        "git_changes": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else [],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


def timing_environment(device: str) -> dict[str, Any]:
    """Describe everything that times on a device ("cpu" or "cuda") depend on besides the code, for a JSON file."""
    shared = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if device == "cpu":
        return shared | {"processor": _cpu_name(), "instructions": cpu.instruction_set()}
    gpu = {"cuda": torch.version.cuda, "triton": _version("triton"), "processor": torch.cuda.get_device_name()}
    return shared | gpu | {"driver": _driver()}


def has_bfloat16(device: torch.device) -> bool:
    """Return True if the processor computes in bfloat16 by itself; others emulate it, many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu.has_bfloat16()


def _cpu_name() -> str:
    """Return the processor's name, family and model, or its architecture if the system does not give them.

    Virtual machines shorten the name to that of the brand, and family and model tell the generation.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", text, flags=re.MULTILINE))
    if "model name" not in found:
        return platform.processor() or platform.machine()
    name = found["model name"].strip()
    return f"{name}, family {found['cpu family']} model {found['model']}" if "cpu family" in found else name


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, if the system gives it."""
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        if found := re.search(r"\b\d+\.\d+(\.\d+)?\b", text):
            return found[0]
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Run git in this package's source tree; None if it is not a git repository, or git is missing."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
