"""The Triton backend: one fused kernel forward, one backward. For GPUs; on CPU tensors under Triton's interpreter.

The kernels' tiles come from :mod:`mrda_kernels.backends.triton_configs`. With the environment variable
MRDA_KERNELS_TUNE=1, the first call of each kind measures a few and keeps the fastest, in this process and on disk.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrda_kernels.backends import full_mask
from mrda_kernels.backends import triton_configs as configs
from mrda_kernels.backends.triton_configs import FUSED_MASK, GIVEN_LOGITS, NO_MASK, Config, Problem
from mrda_kernels.memory_format import empty_result, result_memory_format
from mrda_kernels.reference import accumulation_dtype

TUNE_VARIABLE = "MRDA_KERNELS_TUNE"

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "yes", "on", "y"}
"""Triton decides for good when the kernels are first imported, so the question is put once, too."""


def why_not(device_type: str) -> str | None:
    """Why this backend can't serve tensors of a device type, or None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed; install it with pip install triton (it exists for Linux)"
    if device_type == "cpu" and INTERPRETED:
        return None
    if device_type == "cpu":
        return "it serves CPU tensors only under Triton's interpreter, with TRITON_INTERPRET=1 in the environment"
    if device_type != "cuda":
        return f"it serves GPU tensors, not {device_type} ones"
    if INTERPRETED:
        return "TRITON_INTERPRET is set, so that it serves CPU tensors only; unset it for the GPU"
    if not torch.cuda.is_available():
        return "torch finds no GPU; install a driver and a torch that is built for the GPU"
    return None


def details() -> str:
    """The version of Triton, and where the kernels run."""
    version = importlib.metadata.version("triton")
    return f"triton {version}, " + ("interpreted on the CPU, slow" if INTERPRETED else torch.cuda.get_device_name())


def forward(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor | None,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
) -> Tensor:
    """The result, in the operator's memory format."""
    call = _Call(input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
    return _forward(call)


def backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor | None,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
) -> tuple[Tensor, ...]:
    """Gradients of input and weight; where there is a mask, of its weight and bias too."""
    call = _Call(input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
    return _backward(grad_output, call)


class _Call(NamedTuple):
    input: Tensor
    weight: Tensor
    mask_weight: Tensor | None
    mask_bias: Tensor | None
    negative_slope: float
    output_negative_slope: float | None

    def problem(self, direction: str) -> Problem:
        """What the choice of a tile depends on."""
        channels, kernel_size = self.input.shape[1], self.weight.shape[-1]
        dtype = str(self.input.dtype).removeprefix("torch.")
        masks = 0 if self.mask_weight is None else self.mask_weight.shape[0]
        return Problem(
            direction,
            channels,
            kernel_size,
            configs.mask_mode(direction, channels, kernel_size, masks, dtype),
            result_memory_format(self.input) == torch.channels_last,
            dtype,
        )

    def logits(self, mask: int) -> Tensor | None:
        """(B, C, H, W) where the kernel reads them."""
        if mask != GIVEN_LOGITS or self.mask_weight is None:
            return None
        # a single map is the same for all channels: a stride of 0
        return full_mask.logits(self.input, self.mask_weight, self.mask_bias).expand(self.input.shape)


def _forward(call: _Call, config: Config | None = None, wide: bool = False) -> Tensor:
    """``config`` and ``wide``, for tests: a tile, and 64-bit offsets whether or not they are needed."""
    input = call.input
    problem = call.problem("forward")
    logits = call.logits(problem.mask)
    output = empty_result(input)
    written = _rounded_by_torch(output)
    wide = wide or needs_wide_offsets(input, call.weight, call.mask_weight, written, logits)

    def launch(config: Config) -> None:
        bands = _bands(problem, config, input.shape)
        _kernels().forward[(bands.programs,)](
            written,
            *_pointers(call, logits),
            *_sizes(input, bands),
            *written.stride(),
            *_strides(call, logits),
            *_constants(call, problem, config, wide),
            **_options(config),
        )

    _run(input, problem, launch, config)
    return output if written is output else output.copy_(written)


def _backward(grad_output: Tensor, call: _Call, config: Config | None = None, wide: bool = False) -> tuple[Tensor, ...]:
    input, weight = call.input, call.weight
    problem = call.problem("backward")
    logits = call.logits(problem.mask)
    grad_input = empty_result(input)
    written, grad_logits = _rounded_by_torch(grad_input), None
    if logits is not None:  # what comes through the logits is still to be added
        written = torch.empty_like(grad_input, dtype=logits.dtype)
        grad_logits = torch.empty_like(written)
    wide = wide or needs_wide_offsets(input, weight, call.mask_weight, grad_output, written, logits)
    partial_sums = input

    def launch(config: Config) -> None:
        nonlocal partial_sums
        bands = _bands(problem, config, input.shape)
        partial_sums, scratch = _workspace(problem, config, bands, input)
        _kernels().backward[(bands.programs,)](
            written,
            input if grad_logits is None else grad_logits,
            partial_sums,
            scratch,
            _readable(grad_output),
            *_pointers(call, logits),
            *_sizes(input, bands),
            *written.stride(),
            *(_NO_STRIDES if grad_logits is None else grad_logits.stride()),
            *grad_output.stride(),
            *_strides(call, logits),
            *_constants(call, problem, config, wide),
            **_options(config),
        )

    _run(input, problem, launch, config)

    # Programs of a sample first; then, for what samples share, the samples.
    sums = partial_sums.sum(dim=2).transpose(1, 2).flatten(2)[..., : problem.channels]  # (B, sums, C)
    taps = weight.shape[2] * weight.shape[3]
    grad_weight = sums[:, :taps].transpose(1, 2).reshape(weight.shape).to(input.dtype).contiguous()
    if call.mask_weight is None:
        return _round_into(grad_input, written), grad_weight
    if grad_logits is None:
        of_mask = sums[:, taps:].sum(dim=0).to(input.dtype)
        grad_mask_weight, grad_mask_bias = of_mask[0].reshape(call.mask_weight.shape), of_mask[1, :1].clone()
    else:
        if call.mask_weight.shape[0] == 1:
            grad_logits = grad_logits.sum(dim=1, keepdim=True)
        through_logits, *of_weight_and_bias = full_mask.logits_backward(grad_logits, input, call.mask_weight)
        written += through_logits
        grad_mask_weight, grad_mask_bias = (g.to(input.dtype) for g in of_weight_and_bias)
    return _round_into(grad_input, written), grad_weight, grad_mask_weight, grad_mask_bias


def needs_wide_offsets(*tensors: Tensor | None) -> bool:
    """Whether an element of any of the tensors is 2^31 or more elements from its first.

    The sums and the scratch of the backward, which belong to a program, are always found by 64-bit offsets.
    """
    return any(
        sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) >= 2**31
        for t in tensors
        if t is not None
    )


# ---- a launch ------------------------------------------------------------------------------------------------------

_NO_STRIDES = (0, 0, 0, 0)
_UNSEEN_ZERO = 0


class _Bands(NamedTuple):
    rows: int  # of a tile
    blocks: int  # of channels
    tiles: int  # of a sample's image
    programs: int


def _bands(problem: Problem, config: Config, shape: torch.Size) -> _Bands:
    """How many programs share an image, in which tiles."""
    batch, channels, height, width = shape
    backward = problem.direction == "backward" and problem.mask != NO_MASK
    step = config.columns - (2 * (problem.kernel_size // 2) if backward else 0)
    blocks, across = math.ceil(channels / config.channels), math.ceil(width / step)
    rows = config.rows if INTERPRETED else configs.rows_for(config, height, batch * blocks * across)
    tiles = across * math.ceil(height / rows)
    return _Bands(rows, blocks, tiles, batch * blocks * tiles)


def _workspace(problem: Problem, config: Config, bands: _Bands, input: Tensor) -> tuple[Tensor, Tensor]:
    """For the backward: a partial sum of each program, and the rows that its threads show each other."""
    sums = problem.kernel_size**2 + (2 if problem.mask == FUSED_MASK else 0)
    rows = 0 if problem.mask == NO_MASK or problem.kernel_size == 1 else problem.kernel_size + 1
    options: dict[str, Any] = {"dtype": accumulation_dtype(input.dtype), "device": input.device}
    return (
        torch.empty(input.shape[0], bands.blocks, bands.tiles, sums, config.channels, **options),
        torch.empty(max(bands.programs * rows, 1), config.columns, config.channels, **options),
    )


def _pointers(call: _Call, logits: Tensor | None) -> tuple[Tensor, ...]:
    """What a kernel does not read may be any tensor."""
    optional = (call.mask_weight, call.mask_bias, logits)
    pointers = call.input, call.weight, *(call.input if t is None else t for t in optional)
    return tuple(map(_readable, pointers))


def _sizes(input: Tensor, bands: _Bands) -> tuple[int, ...]:
    return *input.shape[2:], bands.rows, _UNSEEN_ZERO


def _strides(call: _Call, logits: Tensor | None) -> tuple[int, ...]:
    mask_weight = 0 if call.mask_weight is None else call.mask_weight.stride(1)
    return (
        *call.input.stride(),
        *call.weight.stride(),
        mask_weight,
        *(_NO_STRIDES if logits is None else logits.stride()),
    )


def _constants(call: _Call, problem: Problem, config: Config, wide: bool) -> tuple[Any, ...]:
    import triton.language as tl

    return (
        call.negative_slope,
        1.0 if call.output_negative_slope is None else call.output_negative_slope,
        problem.channels,
        problem.kernel_size,
        problem.mask,
        call.mask_bias is not None,
        call.output_negative_slope is not None,
        problem.channels_last,
        config.columns,
        config.channels,
        tl.float64 if problem.dtype == "float64" else tl.float32,
        wide,
    )


def _options(config: Config) -> dict[str, int]:
    options = {"num_warps": config.warps}
    if config.registers is not None and torch.version.hip is None:
        options["maxnreg"] = config.registers
    return options


def _run(input: Tensor, problem: Problem, launch: Callable[[Config], None], config: Config | None) -> None:
    """Launch with a tile for the problem, on the input's device and torch's current stream of it."""
    guard = torch.cuda.device(input.device) if input.device.type == "cuda" else contextlib.nullcontext()
    with guard:
        if config is None and INTERPRETED:
            config = configs.for_interpreter(problem, input.shape[0])
        launch(config or _choose(problem, launch))


def _choose(problem: Problem, launch: Callable[[Config], None]) -> Config:
    measured = _measured(torch.cuda.current_device())
    known = measured.get(problem)
    if known is not None:
        return known
    if os.environ.get(TUNE_VARIABLE) != "1" or torch.cuda.is_current_stream_capturing():
        return configs.shipped(problem)
    return measured.measure(problem, functools.partial(_seconds, launch))


def _seconds(launch: Callable[[Config], None], config: Config) -> float:
    from triton.runtime.errors import OutOfResources, PTXASError
    from triton.testing import do_bench

    try:
        return do_bench(lambda: launch(config), return_mode="median") / 1e3
    except (OutOfResources, PTXASError, torch.OutOfMemoryError):  # a candidate that does not fit this GPU
        return math.inf


@functools.cache
def _measured(device: int) -> configs.Measured:
    source = hashlib.sha256(Path(_kernels().__file__ or "").read_bytes()).hexdigest()[:16]
    name = f"{torch.cuda.get_device_name(device)}, triton {importlib.metadata.version('triton')}, kernels {source}"
    return configs.Measured(configs.cache_path(), name)


def _kernels() -> ModuleType:
    from mrda_kernels.backends import triton_kernels

    return triton_kernels


# ---- rounding ------------------------------------------------------------------------------------------------------


def _rounded_by_torch(result: Tensor) -> Tensor:
    """What the kernel writes: ``result``, or a wider tensor where Triton's interpreter can't round to its dtype."""
    return result.float() if INTERPRETED and result.dtype == torch.bfloat16 else result


def _round_into(result: Tensor, written: Tensor) -> Tensor:
    return result if written is result else result.copy_(written)


def _readable(tensor: Tensor) -> Tensor:
    """``tensor``, or a wider copy with the same strides where Triton's interpreter can't read its dtype."""
    # It gets subnormal bfloat16 numbers wrong; and it rounds halves up, and loses what carries into the exponent.
    if not INTERPRETED or tensor.dtype != torch.bfloat16:
        return tensor
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((extent,), (1,)).float().as_strided(tensor.shape, tensor.stride(), 0)
