# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources compiled for the CPU and run thread by thread, csrc/emulation: for this project's tests."""

from __future__ import annotations

import torch

from mrda_kernels.backends import load_extension
from mrda_kernels.backends.cuda import CudaKernels

_emulation, _missing = load_extension("_emulation")


def why_not(device: torch.device | str) -> str | None:
    """Return why this backend can't serve tensors on a device, or None if it can."""
    device_type = torch.device(device).type
    if _missing is not None:
        return "the emulation is not built; build it with make setup, or set MRDA_KERNELS_EMULATION=1 (it is for tests)"
    if device_type != "cpu":
        return f"it serves CPU tensors, not {device_type} ones"
    return None


def details() -> str:
    """Describe the backend."""
    return "the CUDA kernels on the CPU, thread by thread, for tests"


if _missing is None:
    _kernels = CudaKernels(_emulation, lambda tensor: (0, 0))
    forward = _kernels.forward
    backward = _kernels.backward
    serves_conv3x3 = _kernels.serves_conv3x3
    conv3x3_forward = _kernels.conv3x3_forward
    conv3x3_with_features = _kernels.conv3x3_with_features
    serves_conv5x5 = _kernels.serves_conv5x5
    pack_conv5x5 = _kernels.pack_conv5x5
    conv5x5_forward = _kernels.conv5x5_forward
