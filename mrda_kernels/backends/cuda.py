# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend: kernels written for NVIDIA GPUs, csrc/cuda, on torch's current stream.

If all channels share a mask and are few enough, one kernel does everything (and one more adds up the backward's sums).
Otherwise the mask before its sigmoid is a matrix product of torch's, :mod:`full_mask`, which the kernels read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrda_kernels.backends import REINSTALL, full_mask, install_hint, load_extension
from mrda_kernels.call import RdaCall

_C, _missing = load_extension()
_built = _missing is None and hasattr(_C, "rda_conv_forward_cuda")

_NO_STRIDES = (0, 0, 0, 0)
_NOT_BUILT = (
    "the extension was built without CUDA; install NVIDIA's CUDA toolkit (nvcc), "
    f"then the package again with MRDA_KERNELS_CUDA=1 {REINSTALL}"
)


# ---- availability --------------------------------------------------------------------------------------------------


def why_not(device: torch.device | str) -> str | None:
    """Return why this backend can't serve tensors on a device, or None if it can.

    A device without an index stands for any GPU: it is served if one of them is.
    """
    device = torch.device(device)
    if _missing is not None:
        return install_hint(_missing)
    if device.type == "cuda" and torch.version.cuda is not None and torch.cuda.is_available():
        return _why_not_on_gpus(device)
    if not _built:
        return _NOT_BUILT
    if device.type != "cuda":
        return f"it serves CUDA tensors, not {device.type} ones"
    if torch.version.hip is not None:
        return "this torch is built for AMD GPUs, and these kernels are for NVIDIA ones; use the backend triton"
    if torch.version.cuda is None:
        return "this torch is built without CUDA; install one that is (see pytorch.org)"
    return "torch finds no NVIDIA GPU here; nvidia-smi says whether there are a GPU and a driver"


def _why_not_on_gpus(device: torch.device) -> str | None:
    """Return why none of a machine's GPUs, or the one with the device's index, can be served."""
    indices = range(torch.cuda.device_count()) if device.index is None else [device.index]
    architectures = _C.cuda_architectures if _built else ""
    reasons = [_why_not_on(index, architectures, torch.cuda.get_device_capability(index)) for index in indices]
    if None not in reasons:
        return reasons[0]
    runtime, driver = _C.cuda_versions()
    if driver // 1000 < runtime // 1000:
        return (
            f"the extension was built with CUDA {_version(runtime)}, and the driver knows only {_version(driver)}; "
            f"update the driver, or install an older CUDA toolkit, then the package again with {REINSTALL}"
        )
    return None


def details() -> str:
    """Describe what the kernels are built for."""
    return f"CUDA {_version(_C.cuda_versions()[0])}, built for {_C.cuda_architectures}"


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Return True if code for ``architectures`` runs on a GPU of that compute capability.

    Args:
        architectures: names such as "sm_80 sm_90 compute_90", the last kind for PTX.
        capability: (major, minor).
    """
    for kind, major, minor in re.findall(r"\b(sm|compute)_(\d+)(\d)\b", architectures):
        built = int(major), int(minor)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def _why_not_on(index: int, architectures: str, capability: tuple[int, int]) -> str | None:
    number = f"{capability[0]}{capability[1]}"
    if capability < (8, 0):
        return f"GPU {index} is sm_{number}, and these kernels need sm_80 or later; use the backend triton"
    if not architectures:
        return _NOT_BUILT
    if not runs_on(architectures, capability):
        return (
            f"GPU {index} is sm_{number}, and the extension was built for {architectures}; "
            f"install the package again with MRDA_KERNELS_CUDA_ARCHS={number} {REINSTALL}"
        )
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


# ---- calls ---------------------------------------------------------------------------------------------------------


class CudaKernels:
    """The operators, by the functions of ``native``: the extension, or its emulation.

    Args:
        native: a module with the functions of csrc/cuda/bindings.h.
        queue: returns the index of a tensor's device, and the address of the stream to work on.
    """

    def __init__(self, native: Any, queue: Callable[[Tensor], tuple[int, int]]) -> None:
        self._native = native
        self._queue = queue

    def forward(self, call: RdaCall) -> Tensor:
        """Return the result, in the operator's memory format."""
        call = call.dense()
        params, mask_logits = self._params(call), None
        if call.masks and not self._native.rda_conv_fuses_cuda(params, backward=False):
            mask_logits = full_mask.mask_logits(call)
            params = self._params(_without_mask(call))
        output = call.empty_result()
        device, stream = self._queue(output)
        self._native.rda_conv_forward_cuda(
            params,
            output=output.data_ptr(),
            output_strides=output.stride(),
            mask_logits=0 if mask_logits is None else mask_logits.data_ptr(),
            mask_logits_strides=_NO_STRIDES if mask_logits is None else mask_logits.stride(),
            device=device,
            stream=stream,
        )
        return output

    def backward(self, grad_output: Tensor, call: RdaCall) -> tuple[Tensor, ...]:
        """Return the gradients of input and weight, and with a mask of its weight and bias."""
        call = call.dense()
        if not call.masks or self._native.rda_conv_fuses_cuda(self._params(call), backward=True):
            return self._fused_backward(grad_output, call, None)
        return self._backward_by_product(grad_output, call)

    def _params(self, call: RdaCall) -> Any:
        return self._native.RdaConvParams(call, call.dtype_name, call.channels_last)

    def _fused_backward(self, grad_output: Tensor, call: RdaCall, residual: Tensor | None) -> tuple[Tensor, ...]:
        """Make one pass. ``residual``, for calls without a mask, is added to the gradient of the input."""
        params = self._params(call)
        grad_input = call.empty_result()
        grads = [torch.empty_like(t) for t in (call.weight, call.mask_weight) if t is not None]
        if call.mask_weight is not None:
            grads.append(call.mask_weight.new_empty(call.masks))
        size = self._native.rda_conv_backward_workspace_cuda(params)
        workspace = torch.empty(size, dtype=torch.uint8, device=call.input.device)
        device, stream = self._queue(grad_input)
        self._native.rda_conv_backward_cuda(
            params,
            grad_output=grad_output.data_ptr(),
            grad_output_strides=grad_output.stride(),
            residual=0 if residual is None else residual.data_ptr(),
            residual_strides=_NO_STRIDES if residual is None else residual.stride(),
            grad_input=grad_input.data_ptr(),
            grad_input_strides=grad_input.stride(),
            grad_weight=grads[0].data_ptr(),
            grad_mask_weight=grads[1].data_ptr() if len(grads) > 1 else 0,
            grad_mask_bias=grads[2].data_ptr() if len(grads) > 1 else 0,
            workspace=workspace.data_ptr(),
            device=device,
            stream=stream,
        )
        return grad_input, *grads

    def _backward_by_product(self, grad_output: Tensor, call: RdaCall) -> tuple[Tensor, ...]:
        """Make two passes around a matrix product, all in the accumulation dtype."""
        dtype = call.accumulation_dtype
        mask_logits = full_mask.mask_logits(call)
        grad = grad_output.to(dtype)
        bare = _without_mask(call)._replace(input=call.input.to(dtype), weight=call.weight.to(dtype))
        grad_z, grad_residual, grad_mask_logits = (bare.empty_result() for _ in range(3))
        device, stream = self._queue(grad_z)
        self._native.rda_conv_mask_backward_cuda(
            self._params(bare),
            mask_logits=mask_logits.data_ptr(),
            mask_logits_strides=mask_logits.stride(),
            grad_output=grad.data_ptr(),
            grad_output_strides=grad.stride(),
            grad_strides=grad_z.stride(),
            grad_z=grad_z.data_ptr(),
            grad_residual=grad_residual.data_ptr(),
            grad_mask_logits=grad_mask_logits.data_ptr(),
            device=device,
            stream=stream,
        )
        through_mask, *grad_mask = full_mask.mask_logits_backward(grad_mask_logits, call)
        grad_input, grad_weight = self._fused_backward(grad_z, bare, grad_residual.add_(through_mask))
        grads = (grad_weight, *grad_mask)
        return call.empty_result().copy_(grad_input), *(g.to(call.input.dtype) for g in grads)


def _without_mask(call: RdaCall) -> RdaCall:
    """Leave out the mask's tensors, for kernels that read the mask itself; the slopes stay."""
    return call._replace(mask_weight=None, mask_bias=None)


def _queue(tensor: Tensor) -> tuple[int, int]:
    index = tensor.get_device()
    return index, torch.cuda.current_stream(index).cuda_stream


if _built:
    _kernels = CudaKernels(_C, _queue)
    forward = _kernels.forward
    backward = _kernels.backward
