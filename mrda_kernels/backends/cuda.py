# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend: kernels written for NVIDIA GPUs, csrc/cuda, on torch's current stream.

If all channels share a mask and are few enough, one kernel does everything (and one more adds up the backward's sums).
Otherwise the mask before its sigmoid is a matrix product of torch's, :mod:`full_mask`, which the kernels read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrda_kernels.backends import REINSTALL, full_mask, install_hint, load_extension
from mrda_kernels.call import RdaCall
from mrda_kernels.conv3x3_call import Conv3x3Call
from mrda_kernels.conv5x5_shuffle import KINDS, SIZE, Conv5x5Call

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
        params = self._params(call)
        if not call.masks or self._native.rda_conv_fuses_cuda(params, backward=True):
            return self._fused_backward(grad_output, call, params, None)
        return self._backward_by_product(grad_output, call)

    def serves_conv3x3(self, call: Conv3x3Call, *, recorded: bool = False) -> bool:
        """Return True if there is a kernel for half an RDA block like this one, which serves training too.

        There is for 64 channels of bfloat16 or float16 in channels_last, K = 3 and one mask.
        """
        steered = call.steered
        if steered is None:
            return False
        return self._native.rda_conv3x3_serves_cuda(
            steered.dtype_name,
            channels_last=steered.channels_last,
            kernel_size=steered.weight.shape[-1],
            mask_channels=steered.masks,
            channels=steered.input.shape[1],
            out_channels=call.conv_weight.shape[0],
        )

    def conv3x3_forward(self, call: Conv3x3Call) -> Tensor:
        """Return the result of half an RDA block, in the operator's memory format."""
        return self._conv3x3(call, None)

    def conv3x3_with_features(self, call: Conv3x3Call) -> tuple[Tensor, Tensor]:
        """Return the result of half an RDA block, and that of the RDA convolution in it, which gradients need."""
        features = torch.empty_like(call.input, memory_format=torch.channels_last)
        return self._conv3x3(call, features), features

    def _conv3x3(self, call: Conv3x3Call, features: Tensor | None) -> Tensor:
        assert call.steered is not None
        steered = call.steered.dense()
        assert steered.mask_weight is not None
        steered = steered._replace(
            input=_aligned(steered.input),
            weight=_aligned(steered.weight),
            mask_weight=_aligned(steered.mask_weight),
            mask_bias=None if steered.mask_bias is None else _aligned(steered.mask_bias),
        )
        weight = _aligned(call.conv_weight.contiguous(memory_format=torch.channels_last))
        bias = None if call.conv_bias is None else _aligned(call.conv_bias.contiguous())
        skip = None if call.skip is None else _aligned(call.skip.contiguous(memory_format=torch.channels_last))
        output = call.empty_result()
        device, stream = self._queue(output)
        self._native.rda_conv3x3_forward_cuda(
            self._params(steered),
            conv_weight=weight.data_ptr(),
            conv_bias=0 if bias is None else bias.data_ptr(),
            skip=0 if skip is None else skip.data_ptr(),
            output=output.data_ptr(),
            features=0 if features is None else features.data_ptr(),
            output_strides=output.stride(),
            final_negative_slope=1.0 if call.output_negative_slope is None else call.output_negative_slope,
            device=device,
            stream=stream,
        )
        return output

    def serves_conv5x5(self, call: Conv5x5Call) -> bool:
        """Return True if there is a kernel for a call: for 64 channels of bfloat16 or float16 in channels_last."""
        like = _input_alone(call.input)
        return self._native.conv5x5_serves_cuda(
            like.dtype_name, channels_last=like.channels_last, channels=call.input.shape[1], scale=call.scale
        )

    def pack_conv5x5(self, weight: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return weights (9, 3 scale^2, C, 5, 5) as the kernel takes them: (9, 5, 5, rows, C), each as a sum of two.

        The terms are in ``dtype``, that of the inputs. There are twice as many rows as outputs, and some of zeros, for
        the number that the kernel multiplies at a time. None if there is no kernel for the dtype, C and the scale.
        """
        kinds, outputs, channels = weight.shape[:3]
        rows = self._native.conv5x5_rows_cuda(channels, math.isqrt(outputs // 3))
        if not rows or dtype not in (torch.bfloat16, torch.float16):
            return None
        terms = weight.new_zeros(kinds, SIZE, SIZE, rows, channels, dtype=dtype)
        of_taps = weight.permute(0, 3, 4, 1, 2)
        large, small = terms[..., :outputs, :], terms[..., rows // 2 : rows // 2 + outputs, :]
        large.copy_(of_taps)
        small.copy_(of_taps - large.to(weight.dtype))
        return terms

    def conv5x5_forward(self, call: Conv5x5Call) -> Tensor:
        """Return the result of a 5x5 convolution and a pixel shuffle.

        Raises:
            ValueError: the packed weights are not what `pack_conv5x5` makes of weights of this shape.
        """
        input, packed = _aligned(call.input), call.packed_weight
        if packed is None or packed.dtype != input.dtype:
            packed = self.pack_conv5x5(call.weight, input.dtype)
            assert packed is not None
        rows = self._native.conv5x5_rows_cuda(input.shape[1], call.scale)
        if packed.shape != (KINDS, SIZE, SIZE, rows, input.shape[1]) or not packed.is_contiguous():
            raise ValueError("weight has another shape than the weights that were packed; pack it again")
        packed = _aligned(packed)
        bias = call.bias.contiguous()
        shift = None if call.shift is None else call.shift.contiguous()
        output = call.empty_result()
        device, stream = self._queue(output)
        self._native.conv5x5_forward_cuda(
            self._params(_input_alone(input)),
            scale=call.scale,
            packed_weight=packed.data_ptr(),
            bias=bias.data_ptr(),
            shift=0 if shift is None else shift.data_ptr(),
            output=output.data_ptr(),
            device=device,
            stream=stream,
        )
        return output

    def _params(self, call: RdaCall) -> Any:
        return self._native.RdaConvParams(call, call.dtype_name, call.channels_last)

    def _fused_backward(
        self, grad_output: Tensor, call: RdaCall, params: Any, residual: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Make one pass. ``residual``, for calls without a mask, is added to the gradient of the input."""
        grad_input = call.empty_result()
        grads = [torch.empty_like(t) for t in (call.weight, call.mask_weight) if t is not None]
        if call.mask_weight is not None:
            grads.append(call.mask_weight.new_empty(call.masks))
        device, stream = self._queue(grad_input)
        size = self._native.rda_conv_backward_workspace_cuda(params, device=device)
        workspace = torch.empty(size, dtype=torch.uint8, device=call.input.device)
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
        params = self._params(bare)
        self._native.rda_conv_mask_backward_cuda(
            params,
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
        grad_input, grad_weight = self._fused_backward(grad_z, bare, params, grad_residual.add_(through_mask))
        grads = (grad_weight, *grad_mask)
        return call.empty_result().copy_(grad_input), *(g.to(call.input.dtype) for g in grads)


def _without_mask(call: RdaCall) -> RdaCall:
    """Leave out the mask's tensors, for kernels that read the mask itself; the slopes stay."""
    return call._replace(mask_weight=None, mask_bias=None)


def _input_alone(input: Tensor) -> RdaCall:
    """Return a call for the parameters of kernels that have weights of another kind."""
    return RdaCall(input, input)


def _aligned(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if it does not start at a multiple of 16 bytes."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _queue(tensor: Tensor) -> tuple[int, int]:
    index = tensor.get_device()
    return index, torch.cuda.current_stream(index).cuda_stream


if _built:
    _kernels = CudaKernels(_C, _queue)
    forward = _kernels.forward
    backward = _kernels.backward
    serves_conv3x3 = _kernels.serves_conv3x3
    conv3x3_forward = _kernels.conv3x3_forward
    conv3x3_with_features = _kernels.conv3x3_with_features
    serves_conv5x5 = _kernels.serves_conv5x5
    pack_conv5x5 = _kernels.pack_conv5x5
    conv5x5_forward = _kernels.conv5x5_forward
