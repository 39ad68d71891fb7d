"""The compiled extension, and a call as its kernels take it: addresses, sizes and strides."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from mrda_kernels.memory_format import result_memory_format


def load_extension(name: str = "_C") -> tuple[Any, str | None]:
    """A compiled module of mrda_kernels and None; or, where it can't be loaded, None and why."""
    module = f"mrda_kernels.{name}"
    try:
        return importlib.import_module(module), None
    except ImportError as error:
        if error.name not in {None, module, "mrda_kernels"}:
            raise
        return None, str(error)


def missing_extension(reason: str) -> str:
    """What to do about that, in a sentence."""
    return (
        f"the compiled extension mrda_kernels._C does not load ({reason}); "
        "install a C++17 compiler and reinstall the package"
    )


class NativeCall:
    """The arguments that all kernels share.

    Keeps the tensors that the addresses point to, copies of small ones among them, alive for as long as it lives.

    Args:
        native: the compiled module: mrda_kernels._C, or one with the same classes.
        input: (B, C, H, W), any strides.
        weight: (B, C, K, K).
        mask_weight: (M, C, 1, 1), or None for the bare dynamic convolution.
        mask_bias: (M,), or None for zero.
        negative_slope: of the LeakyReLU after the convolution.
        output_negative_slope: of the LeakyReLU on the result, or None for none.
    """

    def __init__(
        self,
        native: Any,
        input: Tensor,
        weight: Tensor,
        mask_weight: Tensor | None,
        mask_bias: Tensor | None,
        negative_slope: float,
        output_negative_slope: float | None,
    ) -> None:
        self.input = input
        self.weight = weight.contiguous()
        self.mask_weight = None if mask_weight is None else mask_weight.contiguous()
        self.mask_bias = None if mask_bias is None else mask_bias.contiguous()
        self.params = native.RdaConvParams(
            shape=input.shape,
            kernel_size=weight.shape[-1],
            mask_channels=0 if mask_weight is None else mask_weight.shape[0],
            negative_slope=negative_slope,
            # a slope of 1 is the identity
            output_negative_slope=1.0 if output_negative_slope is None else output_negative_slope,
            dtype=getattr(native.DType, str(input.dtype).removeprefix("torch.")),
            channels_last=result_memory_format(input) == torch.channels_last,
            input=input.data_ptr(),
            input_strides=input.stride(),
            weight=self.weight.data_ptr(),
            mask_weight=0 if self.mask_weight is None else self.mask_weight.data_ptr(),
            mask_bias=0 if self.mask_bias is None else self.mask_bias.data_ptr(),
        )
