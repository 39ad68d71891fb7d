"""What this installation can do: ``python -m mrda_kernels.info``."""

from __future__ import annotations

import platform

import torch

import mrda_kernels
from mrda_kernels import dispatch


def report() -> str:
    """Versions, and for each backend whether it serves, or why it doesn't and how to get it; several lines."""
    lines = [
        f"mrda-kernels {mrda_kernels.__version__}",
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads",
        "",
        "backends, the preferred one first:",
    ]
    width = max(map(len, dispatch.BACKENDS))
    lines += [f"  {name:<{width}}  {_describe(name)}" for name in dispatch.BACKENDS]
    return "\n".join(lines)


def _describe(name: str) -> str:
    backend = dispatch.load(name)
    reason = backend.why_not("cpu")
    if reason is not None:
        return f"off: {reason}"
    return f"serves the CPU; {backend.details()}"


if __name__ == "__main__":
    print(report())
