"""The CUDA backend: kernels written for NVIDIA GPUs, csrc/cuda, on torch's current stream."""

from __future__ import annotations

import functools
import re

import torch
from torch import Tensor

from mrda_kernels.backends.cuda_calls import CudaCalls
from mrda_kernels.backends.native import load_extension, missing_extension

_C, _missing = load_extension()
_built = _missing is None and hasattr(_C, "rda_conv_forward_cuda")


def why_not(device_type: str) -> str | None:
    """Why this backend can't serve tensors of a device type, or None where it can."""
    if _missing is not None:
        return missing_extension(_missing)
    if not _built:
        return (
            "the extension was built without CUDA; install NVIDIA's CUDA toolkit (nvcc) "
            "and reinstall the package with MRDA_KERNELS_CUDA=1"
        )
    if device_type != "cuda":
        return f"it serves CUDA tensors, not {device_type} ones"
    return _no_gpu()


@functools.cache
def _no_gpu() -> str | None:
    """Why no GPU can be served, or None where all that torch sees can."""
    if torch.version.hip is not None:
        return "this torch is built for AMD GPUs, and these kernels are for NVIDIA ones; use the backend triton"
    if torch.version.cuda is None:
        return "this torch is built without CUDA; install one that is (see pytorch.org)"
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU here; nvidia-smi says whether there are a GPU and a driver"
    runtime, driver = _C.cuda_versions()
    if driver // 1000 < runtime // 1000:
        return (
            f"the extension was built with CUDA {_version(runtime)}, and the driver knows only {_version(driver)}; "
            "update the driver, or reinstall the package with an older CUDA toolkit"
        )
    for index in range(torch.cuda.device_count()):
        reason = _why_not_on(_C.cuda_architectures, torch.cuda.get_device_capability(index))
        if reason is not None:
            return f"GPU {index} {reason}"
    return None


def _why_not_on(architectures: str, capability: tuple[int, int]) -> str | None:
    number = f"{capability[0]}{capability[1]}"
    if capability < (8, 0):
        return f"is sm_{number}, and these kernels need sm_80 or later; use the backend triton"
    if not runs_on(architectures, capability):
        return (
            f"is sm_{number}, and the extension was built for {architectures}; "
            f"reinstall the package with MRDA_KERNELS_CUDA_ARCHS={number}"
        )
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether code for ``architectures`` runs on a GPU of that compute capability.

    Args:
        architectures: names such as "sm_80 sm_90 compute_90", the last kind for PTX.
        capability: (major, minor).
    """
    for kind, major, minor in re.findall(r"\b(sm|compute)_(\d+)(\d)\b", architectures):
        built = int(major), int(minor)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def details() -> str:
    """What it is built for."""
    return f"CUDA {_version(_C.cuda_versions()[0])}, built for {_C.cuda_architectures}"


def _queue(tensor: Tensor) -> tuple[int, int]:
    index = tensor.get_device()
    return index, torch.cuda.current_stream(index).cuda_stream


if _built:
    _calls = CudaCalls(_C, _queue)
    forward = _calls.forward
    backward = _calls.backward
