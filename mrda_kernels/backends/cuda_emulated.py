"""The CUDA sources compiled for the CPU and run thread by thread, csrc/emulation: for this project's tests."""

from __future__ import annotations

from mrda_kernels.backends.cuda_calls import CudaCalls
from mrda_kernels.backends.native import load_extension

_emulation, _missing = load_extension("_emulation")


def why_not(device_type: str) -> str | None:
    """Why this backend can't serve tensors of a device type, or None where it can."""
    if _missing is not None:
        return "the emulation is not built: it is for tests, and `make setup` or MRDA_KERNELS_EMULATION=1 builds it"
    if device_type != "cpu":
        return f"it serves CPU tensors, not {device_type} ones"
    return None


def details() -> str:
    """What it is."""
    return "the CUDA kernels on the CPU, thread by thread, for tests"


if _missing is None:
    _calls = CudaCalls(_emulation, lambda tensor: (0, 0))
    forward = _calls.forward
    backward = _calls.backward
