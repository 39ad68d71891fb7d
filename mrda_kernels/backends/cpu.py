"""The native CPU backend: C++ compiled for several instruction sets, run on torch's own threads."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from mrda_kernels.backends.native import NativeCall, load_extension, missing_extension
from mrda_kernels.memory_format import empty_result
from mrda_kernels.reference import accumulation_dtype

_C, _missing = load_extension()


def why_not(device_type: str) -> str | None:
    """Why this backend can't serve tensors of a device type, or None where it can."""
    if _missing is not None:
        return missing_extension(_missing)
    if device_type != "cpu":
        return f"it serves CPU tensors, not {device_type} ones"
    return None


def details() -> str:
    """The instruction set in use, those that could be, and whose threads do the work."""
    threads = "on torch's own threads" if shares_torch_threads else "on one thread (torch has no OpenMP to share)"
    return f"{_C.cpu_instruction_set()} of {', '.join(_C.cpu_instruction_sets())}, {threads}"


def _gomp_parallel_address() -> int:
    """Where torch's own OpenMP runtime keeps GOMP_parallel; 0 where it has none.

    torch's wheels carry their OpenMP runtime under a private name. A second one beside it would keep threads of
    its own, which spin against torch's between operators; so the kernels are linked to none and borrow torch's.
    """
    name = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
    try:
        # a symbol is looked up in the library and in what it depends on
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name), mode=os.RTLD_NOLOAD)
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value or 0
    except (AttributeError, OSError):  # another platform, or a torch without OpenMP
        return 0


shares_torch_threads = False
if _missing is None:
    _address = _gomp_parallel_address()
    _C.set_gomp_parallel(_address)
    shares_torch_threads = _address != 0


def forward(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor | None,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
) -> Tensor:
    """The result, in the operator's memory format."""
    output = empty_result(input)
    call = NativeCall(_C, input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
    _C.rda_conv_forward_cpu(
        call.params,
        output=output.data_ptr(),
        output_strides=output.stride(),
        threads=torch.get_num_threads(),
    )
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor | None,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
) -> tuple[Tensor, ...]:
    """Gradients of input and weight; where there is a mask, of its weight and bias too."""
    dtype = accumulation_dtype(input.dtype)
    grad_input = empty_result(input)
    sums = [torch.empty(weight.shape, dtype=dtype)]
    if mask_weight is not None:
        sums += [torch.empty(mask_weight.shape, dtype=dtype), torch.empty(mask_weight.shape[0], dtype=dtype)]
    call = NativeCall(_C, input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
    _C.rda_conv_backward_cpu(
        call.params,
        grad_output=grad_output.data_ptr(),
        grad_output_strides=grad_output.stride(),
        grad_input=grad_input.data_ptr(),
        grad_input_strides=grad_input.stride(),
        grad_weight=sums[0].data_ptr(),
        grad_mask_weight=sums[1].data_ptr() if mask_weight is not None else 0,
        grad_mask_bias=sums[2].data_ptr() if mask_weight is not None else 0,
        threads=torch.get_num_threads(),
    )
    return grad_input, *(grad.to(input.dtype) for grad in sums)
