# SPDX-License-Identifier: Apache-2.0
"""Native kernels of mrda_kernels, from csrc/bindings.cpp; nothing is checked."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

class RdaConvParams:
    """An RdaCall, or an input alone, as the kernels take it: addresses, sizes, strides; it keeps no tensor alive."""

    def __init__(self, call: Sequence[Any], dtype: str, channels_last: bool) -> None: ...

def rda_conv_forward_cpu(params: RdaConvParams, output: Tensor, threads: int) -> None: ...
def rda_conv_backward_cpu(
    params: RdaConvParams,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_mask_weight: Tensor | None,
    grad_mask_bias: Tensor | None,
    threads: int,
) -> None: ...
def rda_conv3x3_forward_cpu(
    params: RdaConvParams,
    conv_weight: Tensor,
    packed_weight: Tensor,
    conv_bias: Tensor | None,
    skip: Tensor | None,
    final_negative_slope: float,
    output: Tensor,
    threads: int,
) -> None: ...
def conv3x3_weight_gradient_cpu(
    params: RdaConvParams, grad_output: Tensor, grad_weight: Tensor, threads: int
) -> None: ...
def packed_conv3x3_elements(dtype: str, out_channels: int, channels: int) -> int: ...
def pack_conv3x3(dtype: str, weight: Tensor, packed: Tensor) -> None: ...
def cpu_instruction_sets() -> list[str]: ...
def cpu_instruction_set() -> str: ...
def set_cpu_instruction_set(name: str) -> None: ...
def set_gomp_parallel(address: int) -> None: ...

# Only if the extension was built with CUDA:
cuda_architectures: str

def cuda_versions() -> tuple[int, int]: ...
def rda_conv_fuses_cuda(params: RdaConvParams, *, backward: bool) -> bool: ...
def rda_conv_forward_cuda(
    params: RdaConvParams,
    *,
    output: int,
    output_strides: Sequence[int],
    mask_logits: int,
    mask_logits_strides: Sequence[int],
    device: int,
    stream: int,
) -> None: ...
def rda_conv3x3_serves_cuda(
    dtype: str, *, channels_last: bool, kernel_size: int, mask_channels: int, channels: int, out_channels: int
) -> bool: ...
def rda_conv3x3_plan_cuda(params: RdaConvParams, *, device: int) -> tuple[int, int, int]: ...
def rda_conv3x3_forward_cuda(
    params: RdaConvParams,
    *,
    conv_weight: int,
    conv_bias: int,
    skip: int,
    output: int,
    features: int,
    output_strides: Sequence[int],
    final_negative_slope: float,
    device: int,
    stream: int,
) -> None: ...
def conv5x5_serves_cuda(dtype: str, *, channels_last: bool, channels: int, scale: int) -> bool: ...
def conv5x5_rows_cuda(channels: int, scale: int) -> int: ...
def conv5x5_forward_cuda(
    params: RdaConvParams,
    *,
    scale: int,
    packed_weight: int,
    bias: int,
    shift: int,
    output: int,
    device: int,
    stream: int,
) -> None: ...
def rda_conv_backward_workspace_cuda(params: RdaConvParams, *, device: int) -> int: ...
def rda_conv_backward_cuda(
    params: RdaConvParams,
    *,
    grad_output: int,
    grad_output_strides: Sequence[int],
    residual: int,
    residual_strides: Sequence[int],
    grad_input: int,
    grad_input_strides: Sequence[int],
    grad_weight: int,
    grad_mask_weight: int,
    grad_mask_bias: int,
    workspace: int,
    device: int,
    stream: int,
) -> None: ...
def rda_conv_mask_backward_cuda(
    params: RdaConvParams,
    *,
    mask_logits: int,
    mask_logits_strides: Sequence[int],
    grad_output: int,
    grad_output_strides: Sequence[int],
    grad_strides: Sequence[int],
    grad_z: int,
    grad_residual: int,
    grad_mask_logits: int,
    device: int,
    stream: int,
) -> None: ...
