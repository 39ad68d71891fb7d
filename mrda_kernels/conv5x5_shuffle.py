# SPDX-License-Identifier: Apache-2.0
"""A 5x5 convolution with a ring of other weights, and a pixel shuffle, as one operator.

A chain of zero-padded convolutions and pixel shuffles is such a convolution: all pixels see the same weights but those
of the outermost ring, where first, inner and last rows and columns have weights of their own. It is for inference;
where a gradient is wanted, and on backends without a kernel, the operator is composed of torch's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda_kernels import derivatives, dispatch
from mrda_kernels.call import RdaCall, accumulation_dtype, holds, is_plain, is_plain_tensor, without_autocast

SIZE = 5
REACH = SIZE // 2
KINDS = 9
"""The 3 x 3 kinds of rows and columns: first, inner, last."""


class PackedConv5x5(NamedTuple):
    """The weights of a call, prepared by :func:`pack_conv5x5`.

    Attributes:
        weight: (9, 3 scale^2, C, 5, 5).
        packed: The same in the layout of the "cuda" backend; None where no kernel takes it.
    """

    weight: Tensor
    packed: Tensor | None


class Conv5x5Call(NamedTuple):
    """The arguments of one call, in the order of the operator's schema; see :func:`conv5x5_shuffle`."""

    input: Tensor
    weight: Tensor
    packed_weight: Tensor | None
    bias: Tensor
    shift: Tensor | None
    scale: int

    def check(self) -> None:
        """Raise TypeError or ValueError, with one sentence, unless shapes, dtypes and devices fit together."""
        input, weight, packed, bias, shift, scale = self
        RdaCall(input, input).check_input()
        outputs, channels = 3 * scale * scale, input.shape[1]
        if scale < 1:
            raise ValueError(f"scale is {scale}, but must be at least 1")
        if not (holds(input.shape[2] >= 2) and holds(input.shape[3] >= 2)):
            raise ValueError(f"input has shape {tuple(input.shape)}, but its height and width must be at least 2")
        expected = {"weight": (KINDS, outputs, channels, SIZE, SIZE), "bias": (KINDS, outputs), "shift": (3,)}
        dtype = accumulation_dtype(input.dtype)
        for name, tensor in (("weight", weight), ("bias", bias), ("shift", shift)):
            if tensor is None:
                continue
            shape = expected[name]
            if tensor.ndim != len(shape) or not all(holds(a == b) for a, b in zip(tensor.shape, shape, strict=True)):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but must be {tuple(shape)}")
            if tensor.dtype != dtype:
                raise TypeError(f"{name} has dtype {tensor.dtype}, but must be {dtype} for an input of {input.dtype}")
        for name, tensor in (("weight", weight), ("packed_weight", packed), ("bias", bias), ("shift", shift)):
            if tensor is not None and tensor.device != input.device:
                raise ValueError(f"{name} is on {tensor.device}, but must be on input's device, {input.device}")

    def empty_result(self) -> Tensor:
        """Make an uninitialised tensor for the result."""
        batch, _, height, width = self.input.shape
        size = (batch, 3, self.scale * height, self.scale * width)
        return self.input.new_empty(size, dtype=accumulation_dtype(self.input.dtype))


def conv5x5_shuffle(
    input: Tensor,
    weight: Tensor | PackedConv5x5,
    bias: Tensor,
    shift: Tensor | None = None,
    *,
    scale: int,
    backend: str | None = None,
) -> Tensor:
    """Convolve with 5x5 kernels, with others for the outermost ring of pixels, shuffle pixels, and add a colour.

    Zero padding 2. The pixel in row h and column w has the kernels of number 3 i + j, where i is 0 in the first row, 2
    in the last one and 1 between, and j likewise for columns. Nothing is rounded to the input's dtype.

    Args:
        input: (B, C, H, W), H and W at least 2; float32, float64, bfloat16 or float16; any strides.
        weight: (9, 3 scale^2, C, 5, 5) in float32 (float64 for float64), or what :func:`pack_conv5x5` made of it.
        bias: (9, 3 scale^2), in the dtype of ``weight``.
        shift: (3,), in the dtype of ``weight``: what is added to each colour; None for nothing.
        scale: Upscale factor of the pixel shuffle.
        backend: As for :func:`mrda_kernels.rda_conv2d`.

    Returns:
        (B, 3, scale H, scale W) in the dtype of ``weight``, contiguous.

    The "cuda" backend has a kernel for 64 channels of bfloat16 or float16 in channels_last and scales of 2 to 4: on
    tensor cores, weights being sums of two numbers of that type. Those of bfloat16 differ from the weights by at most
    2^-17 of their size, those of float16 by 2^-22, or 2^-25 if that is more. All other calls are composed of torch's
    convolutions of the input in float32.

    Raises:
        TypeError, ValueError: dtypes, shapes or devices that do not fit together, an unknown backend.
        RuntimeError: ``backend`` can't serve the call; the message says why.
    """
    dispatch.check_name(backend)
    weight, packed = weight if isinstance(weight, PackedConv5x5) else (weight, None)
    call = Conv5x5Call(input, weight, packed, bias, shift, scale)
    if not torch.compiler.is_compiling() and is_plain(call[:5]) and not torch.is_grad_enabled():
        call.check()
        return _forward(call, backend)
    return torch.ops.mrda_kernels.conv5x5_shuffle(*call, backend)


def pack_conv5x5(weight: Tensor, dtype: torch.dtype = torch.bfloat16) -> PackedConv5x5:
    """Prepare weights once for many calls of :func:`conv5x5_shuffle`; later changes of ``weight`` do not reach them.

    Args:
        weight: As :func:`conv5x5_shuffle` takes it.
        dtype: Of the inputs of the calls. Calls with inputs of another one prepare their weights again.
    """
    packed = None
    if not torch.compiler.is_compiling() and is_plain_tensor(weight) and weight.dtype == torch.float32:
        chosen: Any = dispatch.select(None, weight.device)
        if hasattr(chosen, "pack_conv5x5"):
            packed = chosen.pack_conv5x5(weight.detach(), dtype)
    return PackedConv5x5(weight, packed)


def _forward(call: Conv5x5Call, backend: str | None) -> Tensor:
    """Return the result of a checked call, without a gradient."""
    chosen: Any = dispatch.select(backend, call.input.device)
    with without_autocast():
        if call.input.numel() and hasattr(chosen, "conv5x5_forward") and chosen.serves_conv5x5(call):
            return chosen.conv5x5_forward(call)
        return composed(call)


def composed(call: Conv5x5Call) -> Tensor:
    """Return the result of the operators that a call is made of; differentiable."""
    input, weight, _, bias, shift, scale = call
    image = F.pixel_shuffle(convolve(input.to(weight.dtype), weight, bias), scale)
    if shift is not None:
        image = image + shift[:, None, None]  # the name is used again, so that no third image is in memory below
    return image.contiguous()


def convolve(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, N, H, W), before the pixel shuffle, of an input (B, C, H, W); all in the dtype of ``weight``."""
    kinds = list(zip(weight.unbind(), bias.unbind(), strict=True))
    first, inner, last = (
        _row(kinds[3 * row : 3 * row + 3], input[:, :, cut], padding)
        for row, (cut, padding) in enumerate(_parts(input.shape[2]))
    )
    return torch.cat([first, inner[:, :, 1:-1], last], dim=2)


_Padding = tuple[int, int]


def _row(kinds: list[tuple[Tensor, Tensor]], rows: Tensor, padding: _Padding) -> Tensor:
    first, inner, last = (
        _convolve(rows[..., cut], weight, bias, (*sides, *padding))
        for (weight, bias), (cut, sides) in zip(kinds, _parts(rows.shape[3]), strict=True)
    )
    return torch.cat([first, inner[..., 1:-1], last], dim=3)


def _convolve(part: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    if padding == (REACH,) * 4:  # the whole map: padded by the convolution, without a copy
        return F.conv2d(part, weight, bias, padding=REACH)
    return F.conv2d(F.pad(part, padding), weight, bias)


def _parts(length: int) -> list[tuple[slice, _Padding]]:
    """Return what the first, all, and the last rows (or columns) of so many depend on: a slice, and its padding."""
    seen = min(REACH + 1, length)
    missing = REACH + 1 - seen
    return [
        (slice(seen), (REACH, missing)),
        (slice(None), (REACH, REACH)),
        (slice(length - seen, None), (missing, REACH)),
    ]


_ARGUMENTS = "Tensor input, Tensor weight, Tensor? packed_weight, Tensor bias, Tensor? shift, int scale"
torch.library.define("mrda_kernels::conv5x5_shuffle", f"({_ARGUMENTS}, str? backend) -> Tensor")


@torch.library.impl("mrda_kernels::conv5x5_shuffle", "default")
def _operator(*inputs: Any) -> Tensor:
    call = Conv5x5Call(*inputs[:-1])
    call.check()
    return _forward(call, inputs[-1])


@torch.library.register_fake("mrda_kernels::conv5x5_shuffle")
def _fake(*inputs: Any) -> Tensor:
    call = Conv5x5Call(*inputs[:-1])
    call.check()
    return call.empty_result()


def _checked_and_composed(*inputs: Any) -> Tensor:
    call = Conv5x5Call(*inputs[:-1])
    call.check()
    with without_autocast():
        return composed(call)


derivatives.register("conv5x5_shuffle", _checked_and_composed)
