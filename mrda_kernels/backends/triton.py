# SPDX-License-Identifier: Apache-2.0
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
from mrda_kernels.call import RdaCall

TUNE_VARIABLE = "MRDA_KERNELS_TUNE"

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "yes", "on", "y"}
"""True under Triton's interpreter; read once, as Triton does when the kernels are first imported."""


def why_not(device: torch.device | str) -> str | None:
    """Return why this backend can't serve tensors on a device, or None if it can."""
    device_type = torch.device(device).type
    if importlib.util.find_spec("triton") is None:
        return (
            "the package triton is not installed; install it with pip install 'triton>=3.6,<3.9' (it exists for Linux)"
        )
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
    """Describe the version of Triton, and where the kernels run."""
    version = importlib.metadata.version("triton")
    return f"triton {version}, " + ("interpreted on the CPU, slow" if INTERPRETED else torch.cuda.get_device_name())


def forward(call: RdaCall) -> Tensor:
    """Return the result, in the operator's memory format."""
    return _forward(call)


def backward(grad_output: Tensor, call: RdaCall) -> tuple[Tensor, ...]:
    """Return the gradients of input and weight, and with a mask of its weight and bias."""
    return _backward(grad_output, call)


def _problem(call: RdaCall, direction: str) -> Problem:
    channels, kernel_size = call.input.shape[1], call.weight.shape[-1]
    mode = configs.mask_mode(direction, channels, kernel_size, call.masks, call.dtype_name)
    return Problem(direction, channels, kernel_size, mode, call.channels_last, call.dtype_name)


def _mask_logits(call: RdaCall, problem: Problem) -> Tensor | None:
    """Compute (B, C, H, W) if the kernel reads them."""
    return full_mask.mask_logits(call) if problem.mask == GIVEN_LOGITS else None


def _forward(call: RdaCall, config: Config | None = None, wide: bool = False) -> Tensor:
    """Launch the forward; tests give a tile (``config``), and ask for 64-bit offsets that are not needed (``wide``)."""
    input = call.input
    problem = _problem(call, "forward")
    mask_logits = _mask_logits(call, problem)
    output = call.empty_result()
    written = _rounded_by_torch(output)
    wide = wide or needs_wide_offsets(input, call.weight, call.mask_weight, written, mask_logits)

    def launch(config: Config) -> None:
        bands = _bands(problem, config, input.shape)
        _kernels().forward[(bands.programs,)](
            written,
            *_pointers(call, mask_logits),
            *_sizes(input, bands),
            *written.stride(),
            *_strides(call, mask_logits),
            *_constants(call, problem, config, wide),
            **_options(config),
        )

    _run(input, problem, launch, config)
    return _round_into(output, written)


def _backward(
    grad_output: Tensor, call: RdaCall, config: Config | None = None, wide: bool = False
) -> tuple[Tensor, ...]:
    input = call.input
    problem = _problem(call, "backward")
    mask_logits = _mask_logits(call, problem)
    grad_input = call.empty_result()
    written, grad_mask_logits = _rounded_by_torch(grad_input), None
    if mask_logits is not None:  # what comes through the mask_logits is still to be added
        written = torch.empty_like(grad_input, dtype=mask_logits.dtype)
        grad_mask_logits = torch.empty_like(written)
    wide = wide or needs_wide_offsets(input, call.weight, call.mask_weight, grad_output, written, mask_logits)
    partial_sums = input

    def launch(config: Config) -> None:
        nonlocal partial_sums
        bands = _bands(problem, config, input.shape)
        partial_sums, scratch = _workspace(call, problem, config, bands)
        _kernels().backward[(bands.programs,)](
            written,
            input if grad_mask_logits is None else grad_mask_logits,
            partial_sums,
            scratch,
            _readable(grad_output),
            *_pointers(call, mask_logits),
            *_sizes(input, bands),
            *written.stride(),
            *(_NO_STRIDES if grad_mask_logits is None else grad_mask_logits.stride()),
            *grad_output.stride(),
            *_strides(call, mask_logits),
            *_constants(call, problem, config, wide),
            **_options(config),
        )

    _run(input, problem, launch, config)

    # Programs of a sample first; then, for what samples share, the samples.
    sums = partial_sums.sum(dim=2).transpose(1, 2).flatten(2)[..., : problem.channels]  # (B, sums, C)
    taps = problem.kernel_size**2
    grad_weight = sums[:, :taps].transpose(1, 2).reshape(call.weight.shape).to(input.dtype).contiguous()
    if call.mask_weight is None:
        return _round_into(grad_input, written), grad_weight
    if grad_mask_logits is None:
        of_mask = sums[:, taps:].sum(dim=0).to(input.dtype)
        grad_mask_weight, grad_mask_bias = of_mask[0].reshape(call.mask_weight.shape), of_mask[1, :1].clone()
    else:
        through_mask, *of_weight_and_bias = full_mask.mask_logits_backward(grad_mask_logits, call)
        written += through_mask
        grad_mask_weight, grad_mask_bias = (g.to(input.dtype) for g in of_weight_and_bias)
    return _round_into(grad_input, written), grad_weight, grad_mask_weight, grad_mask_bias


def needs_wide_offsets(*tensors: Tensor | None) -> bool:
    """Return True if an element of any of the tensors is 2^31 or more elements from its first.

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
    """Cut the images into tiles, one for each program."""
    batch, channels, height, width = shape
    backward = problem.direction == "backward" and problem.mask != NO_MASK
    step = config.columns - (2 * (problem.kernel_size // 2) if backward else 0)
    blocks, across = math.ceil(channels / config.channels), math.ceil(width / step)
    rows = config.rows if INTERPRETED else configs.rows_for(config, height, batch * blocks * across)
    tiles = across * math.ceil(height / rows)
    return _Bands(rows, blocks, tiles, batch * blocks * tiles)


def _workspace(call: RdaCall, problem: Problem, config: Config, bands: _Bands) -> tuple[Tensor, Tensor]:
    """Allocate for the backward the sums of each program, and the rows that its threads exchange."""
    input = call.input
    sums = problem.kernel_size**2 + (2 if problem.mask == FUSED_MASK else 0)
    rows = 0 if problem.mask == NO_MASK or problem.kernel_size == 1 else problem.kernel_size + 1
    options: dict[str, Any] = {"dtype": call.accumulation_dtype, "device": input.device}
    return (
        torch.empty(input.shape[0], bands.blocks, bands.tiles, sums, config.channels, **options),
        torch.empty(max(bands.programs * rows, 1), config.columns, config.channels, **options),
    )


def _pointers(call: RdaCall, mask_logits: Tensor | None) -> tuple[Tensor, ...]:
    """Return the tensors that the kernels read; those that are not there are ``input``, and never dereferenced."""
    optional = (call.mask_weight, call.mask_bias, mask_logits)
    pointers = call.input, call.weight, *(call.input if t is None else t for t in optional)
    return tuple(map(_readable, pointers))


def _sizes(input: Tensor, bands: _Bands) -> tuple[int, ...]:
    return *input.shape[2:], bands.rows, _UNSEEN_ZERO


def _strides(call: RdaCall, mask_logits: Tensor | None) -> tuple[int, ...]:
    return (
        *call.input.stride(),
        *call.weight.stride(),
        0 if call.mask_weight is None else call.mask_weight.stride(1),
        *(_NO_STRIDES if mask_logits is None else mask_logits.stride()),
    )


def _constants(call: RdaCall, problem: Problem, config: Config, wide: bool) -> tuple[Any, ...]:
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
    """Return what the kernel writes: ``result``, or a wider tensor if Triton's interpreter can't round to its dtype."""
    return result.float() if INTERPRETED and result.dtype == torch.bfloat16 else result


def _round_into(result: Tensor, written: Tensor) -> Tensor:
    return result if written is result else result.copy_(written)


def _readable(tensor: Tensor) -> Tensor:
    """Return ``tensor``, or a wider copy with the same strides if Triton's interpreter can't read its dtype."""
    # It gets subnormal bfloat16 numbers wrong; and it rounds halves up, and loses what carries into the exponent.
    if not INTERPRETED or tensor.dtype != torch.bfloat16:
        return tensor
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((extent,), (1,)).float().as_strided(tensor.shape, tensor.stride(), 0)
