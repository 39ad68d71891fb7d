# SPDX-License-Identifier: Apache-2.0
"""One call of the operators of half an RDA block: its arguments, and what they must look like."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrda_kernels.call import RdaCall, autocast_cast, check_dtype, check_slope, holds

CONV_ARGUMENTS = (
    "Tensor conv_weight, Tensor? packed_weight, Tensor? conv_bias, Tensor? skip, float? final_negative_slope"
)
"""The fields of :class:`Conv3x3Call` after the RDA convolution's, as torch.library's schemas write them."""


def conv3x3_gradients(
    grad: Tensor, features: Tensor, conv_weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of a 3x3 convolution's features, weights and bias by torch's own operator, if wanted.

    Args:
        grad: That of the result (B, C_out, H, W).
        features: What was convolved, (B, C_in, H, W).
        conv_weight: (C_out, C_in, 3, 3).
        wanted: True for each of the three that is wanted; the others are None.
    """
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, no transposed one, groups
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        grad, features, conv_weight, [conv_weight.shape[0]], *geometry, list(wanted)
    )
    return found


class PackedConv3x3(NamedTuple):
    """The weights of a 3x3 convolution, prepared by :func:`mrda_kernels.pack_conv3x3`.

    Attributes:
        weight: (C_out, C_in, 3, 3).
        packed: The same in the layout of the "cpu" backend; None on other devices.
    """

    weight: Tensor
    packed: Tensor | None


class Conv3x3Call(NamedTuple):
    """The arguments of one call.

    Attributes:
        input: (B, C_in, H, W), any strides.
        steered: The RDA convolution of ``input`` before, or None if ``input`` itself is convolved.
        conv_weight: (C_out, C_in, 3, 3).
        packed_weight: The weights in the "cpu" backend's layout, or None.
        conv_bias: (C_out,), or None for zero.
        skip: (B, C_out, H, W), or None for none.
        output_negative_slope: Slope of the LeakyReLU on the result; None for none.
    """

    input: Tensor
    steered: RdaCall | None
    conv_weight: Tensor
    packed_weight: Tensor | None
    conv_bias: Tensor | None
    skip: Tensor | None
    output_negative_slope: float | None

    @classmethod
    def make(
        cls,
        before: Tensor | RdaCall,
        conv_weight: Tensor | PackedConv3x3,
        conv_bias: Tensor | None,
        skip: Tensor | None,
        output_negative_slope: float | None,
    ) -> Conv3x3Call:
        """Make a call on an input, or on an RDA convolution's result, with weights that are packed already or not."""
        input, steered = (before.input, before) if isinstance(before, RdaCall) else (before, None)
        weight, packed = conv_weight if isinstance(conv_weight, PackedConv3x3) else (conv_weight, None)
        return cls(input, steered, weight, packed, conv_bias, skip, output_negative_slope)

    @classmethod
    def from_flat(cls, arguments: Sequence[Any], is_steered: bool) -> Conv3x3Call:
        """Make a call from the arguments of an operator, without the backend."""
        steered = RdaCall(*arguments[: len(RdaCall._fields)]) if is_steered else None
        return cls(arguments[0], steered, *arguments[-5:])

    def flat(self) -> tuple[Any, ...]:
        """Return the arguments of the operator, without the backend."""
        return (*((self.input,) if self.steered is None else self.steered), *self[2:])

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return all arguments that may be tensors."""
        before = (self.input,) if self.steered is None else self.steered[:4]
        return (*before, *self[2:6])

    # ---- checks ----------------------------------------------------------------------------------------------------

    def check_types(self) -> None:
        """Raise TypeError unless tensors are dense tensors and slopes are numbers."""
        if self.steered is not None:
            self.steered.check_types()
        for name in ("input", "conv_weight", "packed_weight", "conv_bias", "skip"):
            value = getattr(self, name)
            if value is None and name not in ("input", "conv_weight"):
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} is {type(value).__name__}, but must be a torch.Tensor")
            if value.layout != torch.strided:
                raise TypeError(f"{name} has layout {value.layout}, but must be torch.strided")
        slope = self.output_negative_slope
        if slope is not None and not isinstance(slope, Real | torch.SymFloat | torch.SymInt):
            raise TypeError(f"output_negative_slope is {type(slope).__name__}, but must be a number")

    def check(self) -> None:
        """Raise TypeError or ValueError, with one sentence, unless shapes, dtypes, devices and slopes fit together."""
        like = self.like_input
        if self.steered is None:
            like.check_input()
        else:
            like.check()
        self.check_weight(self.conv_weight)
        outputs, channels = self.conv_weight.shape[:2]
        if not holds(channels == self.input.shape[1]):
            raise ValueError(
                f"conv_weight has shape {tuple(self.conv_weight.shape)}, but its C_in must be input's C = "
                f"{self.input.shape[1]}"
            )
        like.check_like_input("conv_weight", self.conv_weight)
        if self.packed_weight is not None:
            if self.packed_weight.dtype != like.accumulation_dtype:
                raise TypeError("conv_weight was packed in another dtype; pack it again in the dtype of the call")
            if self.packed_weight.device != self.input.device:
                raise ValueError("conv_weight was packed on another device; pack it again on the device of the call")
        if self.conv_bias is not None:
            if self.conv_bias.ndim != 1 or not holds(self.conv_bias.shape[0] == outputs):
                raise ValueError(
                    f"conv_bias has shape {tuple(self.conv_bias.shape)}, but must be (C_out,) = ({outputs},)"
                )
            like.check_like_input("conv_bias", self.conv_bias)
        if self.skip is not None:
            shape, expected = tuple(self.skip.shape), self.result_shape
            if len(shape) != 4 or not all(holds(size == other) for size, other in zip(shape, expected, strict=True)):
                raise ValueError(f"skip has shape {shape}, but must be {tuple(expected)}")
            like.check_like_input("skip", self.skip)
        if self.output_negative_slope is not None:
            check_slope("output_negative_slope", self.output_negative_slope)

    @staticmethod
    def check_weight(conv_weight: Tensor) -> None:
        """Raise TypeError or ValueError unless ``conv_weight`` is (C_out, C_in, 3, 3), of a dtype that calls take."""
        check_dtype("conv_weight", conv_weight)
        shape = conv_weight.shape
        if len(shape) != 4 or shape[2] != 3 or shape[3] != 3 or shape[0] < 1 or shape[1] < 1:
            raise ValueError(f"conv_weight has shape {tuple(shape)}, but must be (C_out, C_in, 3, 3), both at least 1")

    def has_float_slopes(self) -> bool:
        """Return True if the slopes are Python's floats, so that nothing is wrong with their types."""
        slope = self.output_negative_slope
        steered_has = self.steered is None or self.steered.has_float_slopes()
        return steered_has and (slope is None or type(slope) is float)

    # ---- what follows from the arguments ---------------------------------------------------------------------------

    @property
    def like_input(self) -> RdaCall:
        """A call of the RDA convolution on the same input: for its dtype, layout and checks."""
        return self.steered or RdaCall.bare(self.input, self.input)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        batch, _, height, width = self.input.shape
        return batch, self.conv_weight.shape[0], height, width

    def requires_grad(self) -> bool:
        """Return True if one of the tensors requires a gradient."""
        return any(tensor is not None and tensor.requires_grad for tensor in self.tensors())

    def empty_result(self) -> Tensor:
        """Make an uninitialised tensor for the result."""
        return torch.empty(
            self.result_shape,
            dtype=self.input.dtype,
            device=self.input.device,
            memory_format=self.like_input.memory_format,
        )

    def autocast(self) -> Conv3x3Call:
        """Cast the tensors as a surrounding autocast region does for ``conv2d``: all but float64 ones."""
        cast = autocast_cast(self.input.device.type)
        if cast is None:
            return self
        input, steered, conv_weight, packed_weight, conv_bias, skip, slope = self
        steered = None if steered is None else steered.autocast()
        weight = cast(conv_weight)
        return Conv3x3Call(
            cast(input) if steered is None else steered.input,
            steered,
            weight,
            packed_weight if weight is conv_weight else None,  # which was made of other numbers
            None if conv_bias is None else cast(conv_bias),
            None if skip is None else cast(skip),
            slope,
        )
