# SPDX-License-Identifier: Apache-2.0
"""The machine and the versions that measured times depend on."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch


def environment(device: str) -> dict[str, Any]:
    """Everything that times on a device ("cpu" or "cuda") depend on besides the code."""
    shared = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if device == "cpu":
        return shared | {"processor": cpu_name()}
    gpu = {"cuda": torch.version.cuda, "triton": _version("triton"), "processor": torch.cuda.get_device_name()}
    return shared | gpu


def cpu_name() -> str:
    """The processor's name; where the system does not tell it, its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
