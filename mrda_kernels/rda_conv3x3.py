# SPDX-License-Identifier: Apache-2.0
"""The operators of half an RDA block: an RDA convolution with the 3x3 convolution after it, and the latter alone.

The "cpu" backend computes both convolutions in one pass over memory, the second one by Winograd's F(4x4, 3x3); the
"cuda" backend computes half blocks of 64 channels in half precision in one launch. Where a gradient is wanted, both
keep the RDA convolution's result, the "cpu" backend in float32 and float64 alone, and there the static convolution's
gradients are by Winograd's algorithm too. For other calls and gradients, and under torch.func transforms, the operators
run as the composition of :func:`mrda_kernels.rda_conv2d` and torch's own convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from mrda_kernels import conv3x3_composition as composition
from mrda_kernels import derivatives, dispatch, flops
from mrda_kernels.call import ARGUMENTS, RdaCall, functorch_is_active, is_plain
from mrda_kernels.conv3x3_call import CONV_ARGUMENTS, Conv3x3Call, PackedConv3x3

__all__ = ["PackedConv3x3", "conv3x3", "pack_conv3x3", "rda_conv3x3"]


def rda_conv3x3(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor | None,
    mask_bias: Tensor | None,
    conv_weight: Tensor | PackedConv3x3,
    conv_bias: Tensor | None = None,
    *,
    skip: Tensor | None = None,
    negative_slope: float = 0.1,
    inner_negative_slope: float | None = 0.1,
    output_negative_slope: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute half an RDA block: an RDA convolution with its activation, then a static 3x3 convolution.

    Equivalent to::

        a = rda_conv2d(input, weight, mask_weight, mask_bias, negative_slope=negative_slope,
                       output_negative_slope=inner_negative_slope)           # Eqs. 8-10, rounded to input's dtype
        y = conv2d(a, conv_weight, conv_bias, padding=1)
        y = y + skip                                                        # only if given
        y = leaky_relu(y, output_negative_slope)                            # only if given

    Two calls are a block: the first with ``output_negative_slope``, the second with the block's input as ``skip``.
    Without a mask it is a block of KDSR: the first line is then ``a = dynamic_depthwise_conv2d(input, weight,
    negative_slope=negative_slope)``.

    Args:
        input: (B, C_in, H, W); float32, float64, bfloat16 or float16; any strides. Sizes may be 1; B, H, W may be 0.
        weight: (B, C_in, K, K), K one of 1, 3, 5, 7: the dynamic kernels, one per sample and channel.
        mask_weight: (M, C_in, 1, 1), M = 1 or M = C_in; None leaves out the mask, the sum and their LeakyReLU.
        mask_bias: (M,), or None for zero.
        conv_weight: (C_out, C_in, 3, 3), or what :func:`pack_conv3x3` made of it, which saves packing it in each call.
        conv_bias: (C_out,), or None for zero.
        skip: (B, C_out, H, W), any strides; None for none.
        negative_slope: slope of the LeakyReLU after the dynamic convolution; 1 leaves that out.
        inner_negative_slope: slope of the LeakyReLU between both convolutions; None leaves that out.
        output_negative_slope: slope of the LeakyReLU on the result; None leaves that out.
        backend: as for :func:`mrda_kernels.rda_conv2d`.

    Returns:
        (B, C_out, H, W) in input's dtype; channels_last if ``input`` is channels_last-contiguous and not
        NCHW-contiguous, otherwise NCHW-contiguous.

    On the "cpu" backend's kernel sums are kept in float32 (float64 for float64) and the result is rounded once. Where
    it does not serve, every step is rounded: if a gradient in half precision is wanted, for :func:`conv3x3` of fewer
    than 16 channels, and with weights that are not packed for fewer than 1,024 pixels; but float16 without a gradient
    is always its work. A matrix unit (AMX) sums the products of bfloat16 directly, with subnormal numbers as zero:
    before the bias, an element is off by at most 9 C_in u times the sum of the absolute products. Elsewhere Winograd's
    algorithm is exact up to rounding: an element differs from the exact convolution of ``a`` by at most (C_in + 28) u
    times |A^T| [sum_c (|G| |w| |G^T|) * (|B^T| |a| |B|)] |A|, with u = 2^-24 (2^-53 for float64) and the matrices of
    csrc/cpu/winograd.h. So the error follows the largest numbers within 5 pixels, not only those next to the element;
    on random numbers it is about twice that of the direct sum. Gradients in float32 and float64 are computed likewise,
    from 16 channels in and out and 1,024 pixels on. With the gradient g of the static convolution's result, that of the
    weights is off by at most (n + 28) u times |G^T| [sum_n (|B^T| |a| |B|) * (|A| |g| |A^T|)] |G|, over the n windows
    of 4x4 pixels of the batch; that of ``a`` obeys the bound above, with g for ``a`` and C_out for C_in. Results and
    gradients are the same to the bit for any number of threads. Values that are not finite go where the formula takes
    them and nowhere else.

    The "cuda" backend has a kernel for 64 channels in and out of bfloat16 or float16 in channels_last, K = 3 and M = 1,
    on sm_80 and later. ``a`` is rounded, and so is the result, once; sums are those of tensor cores, in float32 rounded
    towards zero. Next to values that are not finite, NaN may stand for infinity.

    Differentiable any number of times, beyond the first by the composition. The first gradient on a kernel takes the
    sign of what was activated from the result. Under autocast, tensors are cast as for ``conv2d``.

    Raises:
        TypeError: an argument that is not a tensor, an unsupported dtype, or dtypes that differ.
        ValueError: shapes or devices that do not fit together, an unknown backend, a slope that is not finite.
        RuntimeError: ``backend`` can't serve the call; the message says why.
    """
    steered = RdaCall(input, weight, mask_weight, mask_bias, negative_slope, inner_negative_slope)
    return _run(Conv3x3Call.make(steered, conv_weight, conv_bias, skip, output_negative_slope), backend)


def conv3x3(
    input: Tensor,
    conv_weight: Tensor | PackedConv3x3,
    conv_bias: Tensor | None = None,
    *,
    skip: Tensor | None = None,
    output_negative_slope: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute the static 3x3 convolution of half an RDA block alone: :func:`rda_conv3x3` without Eqs. 8-10.

    Args, results and errors are those of :func:`rda_conv3x3`.
    """
    return _run(Conv3x3Call.make(input, conv_weight, conv_bias, skip, output_negative_slope), backend)


def pack_conv3x3(conv_weight: Tensor) -> PackedConv3x3:
    """Prepare the weights of a 3x3 convolution once for many calls of :func:`rda_conv3x3` and :func:`conv3x3`.

    The "cpu" backend takes them in a layout of its own: four times as many numbers, in float32 (float64 for float64),
    or, for bfloat16 and a matrix unit, as many numbers as there are, with C_in padded to a multiple of 32.
    Later changes of ``conv_weight`` do not reach it; pack again after them.

    Args:
        conv_weight: (C_out, C_in, 3, 3), in the dtype and on the device of the calls.

    Returns:
        The weights as the operators take them; ``packed`` is None if no backend for the device wants its own layout,
        and in traced programs and under torch.func transforms, where the operators pack in each call.

    Raises:
        TypeError, ValueError: as :func:`rda_conv3x3` for a ``conv_weight`` of another type, dtype or shape.
    """
    if not isinstance(conv_weight, Tensor):
        raise TypeError(f"conv_weight is {type(conv_weight).__name__}, but must be a torch.Tensor")
    if conv_weight.layout != torch.strided:
        raise TypeError(f"conv_weight has layout {conv_weight.layout}, but must be torch.strided")
    Conv3x3Call.check_weight(conv_weight)
    packed = composition.packed(conv_weight.detach())
    return PackedConv3x3(conv_weight if packed is None else conv_weight.contiguous(), packed)


def _run(call: Conv3x3Call, backend: str | None) -> Tensor:
    """Run a call eagerly if nothing else takes part in it, otherwise by the composition or through the dispatcher."""
    dispatch.check_name(backend)
    if not torch.compiler.is_compiling() and is_plain(call.tensors()) and call.has_float_slopes():
        call = call.autocast()
        call.check()
        if torch.is_grad_enabled() and call.requires_grad():
            return composition.recorded(call, backend)
        return composition.forward(call, backend)
    others = [t for t in call.tensors() if not isinstance(t, Tensor) and hasattr(t, "__torch_function__")]
    if others:
        return _handed_over(others, call, backend)
    call.check_types()
    call = call.autocast()
    if functorch_is_active():
        call.check()
        return composition.run(call, backend)
    return _operator(call)(*call.flat(), backend)


def _handed_over(others: list[Any], call: Conv3x3Call, backend: str | None) -> Any:
    """Let arguments that stand for tensors take the call, by torch's protocol: the proxies of torch.fx record it."""
    weight: Tensor | PackedConv3x3
    own: dict[str, Any] = {
        "skip": call.skip,
        "output_negative_slope": call.output_negative_slope,
        "backend": backend,
    }
    packed, steered = call.packed_weight, call.steered
    weight = call.conv_weight if packed is None else PackedConv3x3(call.conv_weight, packed)
    if steered is None:
        return handle_torch_function(conv3x3, others, call.input, weight, call.conv_bias, **own)
    own |= {"negative_slope": steered.negative_slope, "inner_negative_slope": steered.output_negative_slope}
    arguments: tuple[Any, ...] = (*steered[:4], weight, call.conv_bias)
    return handle_torch_function(rda_conv3x3, others, *arguments, **own)


def _operator(call: Conv3x3Call) -> Any:
    return torch.ops.mrda_kernels.rda_conv3x3 if call.steered is not None else torch.ops.mrda_kernels.conv3x3


def _define(operator: str, arguments: str, is_steered: bool) -> None:
    """Define an operator, whose derivatives of every kind are those of the composition."""
    name = f"mrda_kernels::{operator}"
    torch.library.define(name, f"({arguments}, {CONV_ARGUMENTS}, str? backend) -> Tensor")

    @torch.library.impl(name, "default")
    def forward(*inputs: Any) -> Tensor:
        call = Conv3x3Call.from_flat(inputs[:-1], is_steered)
        call.check()
        return composition.forward(call, inputs[-1])

    @torch.library.register_fake(name)
    def fake_forward(*inputs: Any) -> Tensor:
        call = Conv3x3Call.from_flat(inputs[:-1], is_steered)
        call.check()
        return call.empty_result()

    def composed(*inputs: Any) -> Tensor:
        call = Conv3x3Call.from_flat(inputs[:-1], is_steered)
        call.check()
        return composition.run(call, inputs[-1])

    derivatives.register(operator, composed)


_define("rda_conv3x3", ARGUMENTS.replace("Tensor mask_weight", "Tensor? mask_weight"), True)
_define("conv3x3", ARGUMENTS.split(", ")[0], False)
flops.register()  # here, where all operators are defined
