# SPDX-License-Identifier: Apache-2.0
"""Time the RDA conv against other ways to compute it, all in one process.

    python benchmarks/rda_conv.py --device cpu --json benchmarks/results/rda_conv_cpu.json

Providers: "released", the released network's way; "released_compiled" and "shift_add_compiled", the released way and a
sum of shifted products under torch.compile; "mrda_kernels", on a GPU with the backend that dispatch picks, and
"mrda_kernels_NAME" with the backend of this name; and "copy", the floor: the bytes that the operator has to read and
write, and no arithmetic. Counted in tensors of the input's size, a forward moves 2 (the floor is `x.clone()`), forward
and backward move 5 (`x.clone()` and `x + grad_y`).
The floor makes a new result, as every provider must; on a CPU that is often fresh memory, whose first touch can cost
more than the copy itself. --keep-memory spares all providers most of that.
"""

import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.rda_conv` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks import commands
from benchmarks.harness import Arguments, Candidate, Effort, Run, fresh_start, measure, saved_bytes
from benchmarks.peers import providers, released
from benchmarks.records import MEMORY_FORMATS, MODES, OURS, Record, Setting, is_measured
from mrda_kernels import rda_conv2d

SHAPES = ((1, 64, 180, 320), (16, 64, 64, 64), (64, 64, 64, 64), (1, 64, 720, 1280))
GPU_SHAPES = ((16, 64, 360, 640), *SHAPES)
QUICK_SHAPES = SHAPES[:2]
KERNEL_SIZE = 3
COUNTED = {"released": released, OURS: rda_conv2d}  # whose memory for the backward is counted


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the RDA conv against the released network's way, torch.compile, and a copy of the same bytes."""
    command = commands.comparison_parser(__doc__, quick="two shapes in float32 only")
    options = command.parse_args(arguments)
    commands.run_comparison(command, options, settings(options.device, options.quick), measure_setting)


def settings(device: str, quick: bool) -> list[Setting]:
    """Everything to measure, in order; on a GPU the most important first."""
    if device == "cpu" or quick:
        shapes, dtypes = (QUICK_SHAPES, [torch.float32]) if quick else (SHAPES, [torch.float32, torch.bfloat16])
        todo = product(shapes, dtypes, MEMORY_FORMATS, MODES)
        return [Setting(device, dtype, layout, shape, mode) for shape, dtype, layout, mode in todo]
    layouts = ("nhwc", "nchw")  # the convolutions around the operator are fastest in channels_last
    everywhere = product(layouts, (torch.bfloat16, torch.float32), GPU_SHAPES, MODES)
    once = product(layouts, (torch.float16,), GPU_SHAPES[:1], MODES)
    return [Setting(device, dtype, layout, shape, mode) for layout, dtype, shape, mode in (*everywhere, *once)]


def random_arguments(setting: Setting) -> Arguments:
    """Draw the operator's tensors; on a device they are the same for every dtype and layout of a shape."""
    generator = torch.Generator(setting.device).manual_seed(0)
    batch, channels, _, _ = setting.shape

    def draw(*size: int) -> torch.Tensor:
        values = torch.randn(size, generator=generator, device=setting.device)
        return values.to(dtype=setting.dtype, memory_format=MEMORY_FORMATS[setting.layout])

    x, grad_output = draw(*setting.shape), draw(*setting.shape)
    weight = draw(batch, channels, KERNEL_SIZE, KERNEL_SIZE).contiguous() / KERNEL_SIZE
    mask_weight = draw(1, channels, 1, 1).contiguous() / channels**0.5
    mask_bias = torch.zeros(1, device=setting.device, dtype=setting.dtype)
    needs_grad = setting.mode == "forward_backward"
    tensors = (x, weight, mask_weight, mask_bias)
    return Arguments(tuple(t.requires_grad_(needs_grad) for t in tensors), grad_output)


def computing(setting: Setting, arguments: Arguments) -> dict[str, Candidate]:
    """The providers that compute, by name."""
    return providers(
        setting,
        arguments,
        peer=lambda conv, transform: transform(conv),
        ours=lambda backend: partial(rda_conv2d, backend=backend),
    )


def measure_setting(setting: Setting, effort: Effort) -> list[Record]:
    """Time all providers on one setting; one record per provider and way to launch."""
    fresh_start()
    arguments = random_arguments(setting)
    candidates = computing(setting, arguments) | {"copy": Candidate(copy(arguments, setting.mode))}
    records = measure(setting, candidates, floor="copy", effort=effort, memory=False)
    for record in records:
        operator = COUNTED.get(record["provider"])
        if operator and is_measured(record) and record["launch"] == "eager" and setting.mode == "forward_backward":
            record["saved_bytes"] = saved_bytes(operator, arguments.tensors)
    return records


def copy(arguments: Arguments, mode: str) -> Run:
    """The floor: the traffic of `mode` with fresh results, and next to no arithmetic."""
    x, grad_output = arguments.tensors[0].detach(), arguments.grad_output
    if mode == "forward":
        return lambda: x.clone()
    return lambda: (x.clone(), torch.add(x, grad_output))


if __name__ == "__main__":
    main()
