# SPDX-License-Identifier: Apache-2.0
"""Rounding to 8 bits, as an image file does."""

from __future__ import annotations

from torch import Tensor

from mrda.core.checks import check_tensor


def quantize(x: Tensor) -> Tensor:
    """Return ``x`` clipped to [0, 1] and rounded (half to even) to multiples of 1/255, same shape and dtype.

    The gradient is zero. bfloat16 and float16 cannot represent all 256 levels exactly, so that they are rounded.

    Raises:
        TypeError: ``x`` is not a floating point tensor.
    """
    check_tensor("x", x)
    return (255 * x).clamp(0, 255).round() / 255
