# SPDX-License-Identifier: Apache-2.0
"""The native CPU backend: C++ compiled for several instruction sets, run on torch's own threads."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from mrda_kernels.backends import install_hint, load_extension
from mrda_kernels.call import DTYPE_NAMES, RdaCall, accumulation_dtype
from mrda_kernels.conv3x3_call import Conv3x3Call
from mrda_kernels.conv3x3_call import conv3x3_gradients as direct_conv3x3_gradients

_C, _missing = load_extension()


def why_not(device: torch.device | str) -> str | None:
    """Return why this backend can't serve tensors on a device, or None if it can."""
    device_type = torch.device(device).type
    if _missing is not None:
        return install_hint(_missing)
    if device_type != "cpu":
        return f"it serves CPU tensors, not {device_type} ones"
    return None


def instruction_set() -> str | None:
    """Return the name of the instruction set that the kernels use; None without the extension."""
    return None if _C is None else _C.cpu_instruction_set()


def details() -> str:
    """Describe the instruction set in use, those that could be, and whose threads do the work."""
    threads = "on torch's own threads" if shares_torch_threads else "on one thread (torch has no OpenMP to share)"
    chosen = _C.cpu_instruction_set()
    others = ", ".join(name for name in _C.cpu_instruction_sets() if name != chosen)
    return f"with the instructions {chosen}{f' (others here: {others})' if others else ''}, {threads}"


def _gomp_parallel_address() -> int:
    """Return the address of GOMP_parallel in torch's own OpenMP runtime; 0 if it has none.

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


def forward(call: RdaCall) -> Tensor:
    """Return the result, in the operator's memory format."""
    call = call.dense()
    output = call.empty_result()
    _C.rda_conv_forward_cpu(
        _C.RdaConvParams(call, call.dtype_name, call.channels_last), output, torch.get_num_threads()
    )
    return output


def backward(grad_output: Tensor, call: RdaCall) -> tuple[Tensor, ...]:
    """Return the gradients of input and weight, and with a mask of its weight and bias."""
    call = call.dense()
    dtype = call.accumulation_dtype
    grad_input, grad_weight = call.empty_result(), _empty_like(call.weight, dtype)
    grad_mask_weight = grad_mask_bias = None
    if call.mask_weight is not None:
        grad_mask_weight = _empty_like(call.mask_weight, dtype)
        grad_mask_bias = grad_mask_weight.new_empty(call.masks)
    _C.rda_conv_backward_cpu(
        _C.RdaConvParams(call, call.dtype_name, call.channels_last),
        grad_output,
        grad_input,
        grad_weight,
        grad_mask_weight,
        grad_mask_bias,
        torch.get_num_threads(),
    )
    sums = [g for g in (grad_weight, grad_mask_weight, grad_mask_bias) if g is not None]
    return grad_input, *(sums if dtype == call.input.dtype else [g.to(call.input.dtype) for g in sums])


def has_bfloat16() -> bool:
    """Return True if the processor has instructions for bfloat16, which others emulate, many times slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


# ---- half an RDA block ---------------------------------------------------------------------------------------------


def serves_conv3x3(call: Conv3x3Call, *, recorded: bool = False) -> bool:
    """Return True if the fused kernel is the fastest way to run a call, with a gradient if ``recorded``.

    oneDNN's direct convolution is faster for a few channels, whose windows cost more to transform than to multiply,
    and for a few pixels with weights that are not packed, which takes as long as some thousand pixels. A gradient's
    sums are in float32, as are those of the kernel, but oneDNN keeps half precision's in registers, at twice the speed.
    """
    dtype = call.input.dtype
    if recorded and (accumulation_dtype(dtype) != dtype or call.conv_weight.shape[0] < _FEWEST_CHANNELS):
        return False
    if dtype == torch.float16:
        return True
    batch, channels, height, width = call.input.shape
    if call.packed_weight is None and batch * height * width < _FEWEST_PIXELS:
        return False
    return (call.steered is not None and not recorded) or channels >= _FEWEST_CHANNELS


def pack_conv3x3(conv_weight: Tensor) -> Tensor:
    """Return the weights of a 3x3 convolution, (C_out, C_in, 3, 3), in the layout of :func:`conv3x3_forward`."""
    weight = conv_weight.contiguous()
    elements = _packed_elements(weight)
    packed = weight.new_empty(elements, dtype=accumulation_dtype(weight.dtype))
    _C.pack_conv3x3(DTYPE_NAMES[weight.dtype], weight, packed)
    return packed


def conv3x3_forward(call: Conv3x3Call) -> Tensor:
    """Return the result of half an RDA block, in the operator's memory format.

    Raises:
        ValueError: the packed weights are not what `pack_conv3x3` makes of weights of this shape.
    """
    like = call.like_input
    steered = like.dense() if call.steered is not None else (call.input, None, None, None, 1.0, None)
    weight = call.conv_weight.contiguous()
    packed = call.packed_weight
    if packed is None:
        packed = pack_conv3x3(weight)
    elif packed.numel() != _packed_elements(weight) or not packed.is_contiguous():
        raise ValueError("conv_weight has another shape than the weights that were packed; pack it again")
    output = call.empty_result()
    _C.rda_conv3x3_forward_cpu(
        _C.RdaConvParams(steered, like.dtype_name, like.channels_last),
        weight,
        packed,
        None if call.conv_bias is None else call.conv_bias.contiguous(),
        call.skip,
        1.0 if call.output_negative_slope is None else call.output_negative_slope,
        output,
        torch.get_num_threads(),
    )
    return output


def conv3x3_with_features(call: Conv3x3Call) -> tuple[Tensor, Tensor]:
    """Return the result of half an RDA block, and what was convolved, which gradients need."""
    features = call.input if call.steered is None else forward(call.steered)
    return conv3x3_forward(call._replace(input=features, steered=None)), features


def conv3x3_gradients(
    grad: Tensor, features: Tensor, conv_weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of features, weights and bias, by Winograd's algorithm; see `conv3x3_call`'s function.

    Those of features and weights are in the memory formats of these.
    """
    of_features, of_weight, of_bias = wanted
    grad_features = grad_weight = grad_bias = None
    # Both kernels take any strides, but channels_last so much faster that a copy pays; and the bias' sum takes its
    # terms in the order of memory.
    grad = grad.contiguous(memory_format=torch.channels_last)
    if of_features:
        rotated = conv_weight.flip(2, 3).transpose(0, 1)
        grad_features = conv3x3_forward(Conv3x3Call(grad, None, rotated, None, None, None, None))
        grad_features = _laid_out_as(features, grad_features)
    if of_weight:
        grad_weight = _conv3x3_weight_gradient(grad, features.contiguous(memory_format=torch.channels_last))
        if not grad_weight.sum().isfinite():  # Winograd's algorithm spreads what is not finite over all taps
            grad_weight = direct_conv3x3_gradients(grad, features, conv_weight, (False, True, False))[1]
            assert grad_weight is not None
        grad_weight = _laid_out_as(conv_weight, grad_weight)
    if of_bias:
        grad_bias = grad.sum(dim=(0, 2, 3))
    return grad_features, grad_weight, grad_bias


def _conv3x3_weight_gradient(grad: Tensor, features: Tensor) -> Tensor:
    like = RdaCall.bare(features, features)
    params = _C.RdaConvParams((features, None, None, None, 1.0, None), like.dtype_name, like.channels_last)
    shape = (grad.shape[1], features.shape[1], 3, 3)
    result = torch.empty(shape, dtype=like.accumulation_dtype, device=features.device)
    _C.conv3x3_weight_gradient_cpu(params, grad, result, torch.get_num_threads())
    return result


def _laid_out_as(tensor: Tensor, gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=RdaCall.bare(tensor, tensor).memory_format)


def _packed_elements(weight: Tensor) -> int:
    elements: int = _C.packed_conv3x3_elements(DTYPE_NAMES[weight.dtype], *weight.shape[:2])
    return elements


_FEWEST_CHANNELS, _FEWEST_PIXELS = 16, 1024


def _empty_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
