"""Native kernels of mrda_kernels, from csrc/bindings.cpp: addresses, sizes and strides; nothing is checked."""

from collections.abc import Sequence

class DType:
    float32: DType
    float64: DType
    bfloat16: DType
    float16: DType

class RdaConvParams:
    def __init__(
        self,
        *,
        shape: Sequence[int],
        kernel_size: int,
        mask_channels: int,
        negative_slope: float,
        output_negative_slope: float,
        dtype: DType,
        channels_last: bool,
        input: int,
        input_strides: Sequence[int],
        weight: int,
        mask_weight: int,
        mask_bias: int,
    ) -> None: ...

def rda_conv_forward_cpu(
    params: RdaConvParams, *, output: int, output_strides: Sequence[int], threads: int
) -> None: ...
def rda_conv_backward_cpu(
    params: RdaConvParams,
    *,
    grad_output: int,
    grad_output_strides: Sequence[int],
    grad_input: int,
    grad_input_strides: Sequence[int],
    grad_weight: int,
    grad_mask_weight: int,
    grad_mask_bias: int,
    threads: int,
) -> None: ...
def cpu_instruction_sets() -> list[str]: ...
def cpu_instruction_set() -> str: ...
def set_cpu_instruction_set(name: str) -> None: ...
def set_gomp_parallel(address: int) -> None: ...

# Only where the extension was built with CUDA:
cuda_architectures: str

def cuda_versions() -> tuple[int, int]: ...
def rda_conv_fuses_cuda(params: RdaConvParams, *, backward: bool) -> bool: ...
def rda_conv_forward_cuda(
    params: RdaConvParams,
    *,
    output: int,
    output_strides: Sequence[int],
    logits: int,
    logits_strides: Sequence[int],
    device: int,
    stream: int,
) -> None: ...
def rda_conv_backward_workspace_cuda(params: RdaConvParams) -> int: ...
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
def rda_conv_modulation_backward_cuda(
    params: RdaConvParams,
    *,
    logits: int,
    logits_strides: Sequence[int],
    grad_output: int,
    grad_output_strides: Sequence[int],
    grad_strides: Sequence[int],
    grad_z: int,
    grad_residual: int,
    grad_logits: int,
    device: int,
    stream: int,
) -> None: ...
