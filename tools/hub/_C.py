# SPDX-License-Identifier: Apache-2.0
"""The functions of the extension mrda_kernels._C, by the operators of torch_binding.cpp; nothing is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._ops import ops

if not hasattr(ops, "rda_conv_forward_cpu"):
    raise ImportError("this build of the kernels has no native code")

_DTYPES = ("float32", "float64", "bfloat16", "float16")  # in the order of csrc/rda_conv.h


class RdaConvParams:
    """An RdaCall, or an input alone, as numbers: addresses, sizes, strides; it keeps no tensor alive."""

    def __init__(self, call: Sequence[Any], dtype: str, channels_last: bool) -> None:
        input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope = call
        size = 1 if weight is None else weight.shape[3]
        masks = 0 if mask_weight is None else mask_weight.shape[0]
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in (weight, mask_weight, mask_bias)]
        self.integers = [*input.shape, size, masks, _DTYPES.index(dtype), int(channels_last)]
        self.integers += [input.data_ptr(), *input.stride(), *addresses]
        self.slopes = [negative_slope, 1.0 if output_negative_slope is None else output_negative_slope]


def __getattr__(name: str) -> Any:
    """Return the function of that name, or the built-in architectures; AttributeError if this build has none."""
    if name.startswith("__"):
        raise AttributeError(name)
    operator = getattr(ops, name)
    if name == "cuda_architectures":
        return operator()

    def function(*arguments: Any, **options: Any) -> Any:
        flat: list[Any] = []
        for argument in arguments:
            is_call = isinstance(argument, RdaConvParams)
            flat += (argument.integers, argument.slopes) if is_call else (argument,)
        return operator(*flat, **options)

    globals()[name] = function
    return function
