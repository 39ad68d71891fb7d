# SPDX-License-Identifier: Apache-2.0
"""A report on this installation: ``python -m mrda_kernels.info``."""

from __future__ import annotations

import platform

import torch

import mrda_kernels
from mrda_kernels import dispatch

DEVICES = {"cpu": "the CPU", "cuda": "GPUs"}  # device types, in words
HOME = {"cuda": "cuda", "triton": "cuda", "cpu": "cpu", "reference": "cpu"}  # the device type a backend is made for


def report() -> str:
    """Describe the versions and each backend, what it serves or why it doesn't and how to get it, on several lines."""
    lines = [
        f"mrda-kernels {mrda_kernels.__version__}",
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads, {_gpus()}",
        "",
        "backends:",
    ]
    width = max(map(len, dispatch.BACKENDS))
    lines += [f"  {name:<{width}}  {_describe(name)}" for name in dispatch.BACKENDS]
    lines += ["", "tried in this order if the caller names none:"]
    lines += [f"  on {words}: {', '.join(dispatch.ORDER[device])}" for device, words in DEVICES.items()]
    return "\n".join(lines)


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _describe(name: str) -> str:
    backend = dispatch.load(name)
    served = [words for device, words in DEVICES.items() if backend.why_not(device) is None]
    if not served:
        return f"off: {backend.why_not(HOME[name])}"
    return f"serves {' and '.join(served)}; {backend.details()}"


if __name__ == "__main__":
    print(report())
