# SPDX-License-Identifier: Apache-2.0
"""The operators' floating point operations, for ``torch.utils.flop_counter.FlopCounterMode``.

Multiplications and additions of the convolutions and of the mask's product are counted, as torch counts those of the
operators that these replace; activations, the sigmoid and the backward's repetition of the forward are not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"


def forward_flops(
    input_shape: Sequence[int], weight_shape: Sequence[int], mask_weight_shape: Sequence[int] | None = None
) -> int:
    """Count the operations of a call on tensors of these shapes; without a mask, of the bare dynamic convolution."""
    batch, channels, height, width = input_shape
    masks = 0 if mask_weight_shape is None else mask_weight_shape[0]
    return 2 * batch * channels * height * width * (weight_shape[2] * weight_shape[3] + masks)


def conv3x3_flops(input_shape: Sequence[int], conv_weight_shape: Sequence[int]) -> int:
    """Count the operations of the static 3x3 convolution of half an RDA block, as those of the direct sum."""
    batch, _, height, width = input_shape
    return 2 * batch * height * width * math.prod(conv_weight_shape)


def conv5x5_flops(input_shape: Sequence[int], weight_shape: Sequence[int]) -> int:
    """Count the operations of a 5x5 convolution with a ring of other weights, each pixel's once."""
    batch, _, height, width = input_shape
    return 2 * batch * height * width * math.prod(weight_shape[1:])


def register() -> None:
    """Make FlopCounterMode count the operators: now, or once its module is imported, which takes long for Triton."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _AfterImport())


def _register(counter: ModuleType) -> None:
    ops = torch.ops.mrda_kernels

    @counter.register_flop_formula([ops.rda_conv2d])
    def rda_conv2d(input: Any, weight: Any, mask_weight: Any, *_: Any, **__: Any) -> int:
        return forward_flops(input, weight, mask_weight)

    @counter.register_flop_formula([ops.dynamic_depthwise_conv2d])
    def dynamic_depthwise_conv2d(input: Any, weight: Any, *_: Any, **__: Any) -> int:
        return forward_flops(input, weight)

    @counter.register_flop_formula([ops.rda_conv3x3])
    def rda_conv3x3(
        input: Any, weight: Any, mask_weight: Any, _: Any, __: Any, ___: Any, conv_weight: Any, *____: Any, **_____: Any
    ) -> int:
        return forward_flops(input, weight, mask_weight) + conv3x3_flops(input, conv_weight)

    @counter.register_flop_formula([ops.conv3x3])
    def conv3x3(input: Any, conv_weight: Any, *_: Any, **__: Any) -> int:
        return conv3x3_flops(input, conv_weight)

    @counter.register_flop_formula([ops.conv5x5_shuffle])
    def conv5x5_shuffle(input: Any, weight: Any, *_: Any, **__: Any) -> int:
        return conv5x5_flops(input, weight)

    # two products for each of the forward's
    @counter.register_flop_formula([ops.rda_conv2d_backward])
    def rda_conv2d_backward(_: Any, input: Any, weight: Any, mask_weight: Any, *__: Any, **___: Any) -> int:
        return 2 * forward_flops(input, weight, mask_weight)

    @counter.register_flop_formula([ops.dynamic_depthwise_conv2d_backward])
    def dynamic_depthwise_conv2d_backward(_: Any, input: Any, weight: Any, *__: Any, **___: Any) -> int:
        return 2 * forward_flops(input, weight)


class _AfterImport(MetaPathFinder):
    """Registers the formulas as soon as the counter's module has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the counter's module as usual, with a loader that registers the formulas too."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _COUNTER else None
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                sys.meta_path.remove(self)
                _register(module)

            loader.exec_module = execute_and_register
        return spec
