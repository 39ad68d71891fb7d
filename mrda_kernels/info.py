# SPDX-License-Identifier: Apache-2.0
"""A report on this installation: ``python -m mrda_kernels.info``."""

from __future__ import annotations

import os
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
    wish = os.environ.get(dispatch.ENVIRONMENT_VARIABLE)
    return "\n".join([*lines, "", *(_order() if not wish else _wish(wish))])


def _order() -> list[str]:
    """Say which backend runs a call that names none."""
    orders = [f"  on {words}: {', '.join(dispatch.ORDER[device])}" for device, words in DEVICES.items()]
    return ["a call that names no backend runs on the first of these that can:", *orders]


def _wish(wish: str) -> list[str]:
    """Say what the environment variable does to such a call."""
    variable = dispatch.ENVIRONMENT_VARIABLE
    try:
        backend = dispatch.load(wish, variable)
    except ValueError as error:
        return [f"{error}: calls that name no backend fail; unset it, or name one of these"]
    lines = [f"{variable}={wish} is set, so that a call that names no backend"]
    for device, words in DEVICES.items():
        reason = backend.why_not(device)
        lines.append(f"  on {words} " + (f"runs on {wish}" if reason is None else f"fails: {reason}"))
    return lines


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _describe(name: str) -> str:
    backend = dispatch.load(name)
    served = [words for device, words in DEVICES.items() if backend.why_not(device) is None]
    if not served:
        return f"does not run here: {backend.why_not(HOME[name])}"
    return f"runs on {' and '.join(served)}: {backend.details()}"


if __name__ == "__main__":
    print(report())
