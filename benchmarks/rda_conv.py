"""Time the RDA conv against other ways to compute it, all in one process.

    python benchmarks/rda_conv.py --device cpu --json benchmarks/results/rda_conv_cpu.json

Providers: "released", the released network's way ("released_tf32": with float32 factors rounded to TF32); "vmap",
torch.vmap of one sample's convolution; "released_compiled" and "shift_add_compiled", the released way and a sum of
shifted products under torch.compile; "mrda_kernels", on a GPU with the backend that is picked where the caller names
none, and "mrda_kernels_NAME" with that of this name; and "copy", the floor: the bytes that the operator has to read
and write, and no arithmetic. Counted in tensors of the input's size,

- forward moves 2: x is read, y written; the floor is `x.clone()`;
- forward_backward moves 5: those, then x and grad_y are read and grad_x is written; the floor is `x.clone()`
  and `x + grad_y`.

The floor makes a new result, as every provider must. On a CPU that is often fresh memory, whose first touch can
cost more than the copy itself; how often, the C library decides: by its own rules, as in any Python process, or
under `--keep-memory`, which spares all providers most of it. `ms_into_existing` is the same copy into tensors that
exist. How calls are timed on a GPU is said in `benchmarks.measuring`, how peers are compiled in `benchmarks.providers`.
"""

import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.rda_conv` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks import commands, tables
from benchmarks.measuring import Arguments, Candidate, Effort, Run, fresh_start, measure, set_count
from benchmarks.memory import saved_bytes
from benchmarks.providers import Operator, Provider, Transform, providers
from benchmarks.records import MEMORY_FORMATS, MODES, Record, Setting, is_measured
from mrda_kernels import rda_conv2d

Shape = tuple[int, int, int, int]

SHAPES: tuple[Shape, ...] = ((1, 64, 180, 320), (16, 64, 64, 64), (64, 64, 64, 64), (1, 64, 720, 1280))
GPU_SHAPES: tuple[Shape, ...] = ((16, 64, 360, 640), *SHAPES)
QUICK_SHAPES = SHAPES[:2]
KERNEL_SIZE = 3
COUNTED = ("released", "mrda_kernels")  # whose memory for the backward is


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the RDA conv against the released network's way, torch.compile, and a copy of the same bytes."""
    command = commands.comparison_parser(__doc__, quick="two shapes in float32 only")
    options = command.parse_args(arguments)
    records = commands.run_comparison(command, options, settings(options.device, options.quick), measure_setting)
    print(tables.details(records).text())
    print(tables.summary(records).text())
    print(*tables.notes(records), sep="\n")
    commands.end(records)


def settings(device: str, quick: bool) -> list[Setting]:
    """Everything to measure, in order; on a GPU the more telling ones first."""
    if device == "cpu" or quick:
        return [
            Setting(device, dtype, layout, shape, mode)
            for shape in (QUICK_SHAPES if quick else SHAPES)
            for dtype in ((torch.float32,) if quick else (torch.float32, torch.bfloat16))
            for layout in MEMORY_FORMATS
            for mode in MODES
        ]
    # channels_last is what the convolutions around the operator are fastest in
    layouts = ("nhwc", "nchw")
    everywhere = product(layouts, (torch.bfloat16, torch.float32), GPU_SHAPES, MODES)
    once = product(layouts, (torch.float16,), GPU_SHAPES[:1], MODES)
    return [Setting(device, dtype, layout, shape, mode) for layout, dtype, shape, mode in (*everywhere, *once)]


def random_arguments(setting: Setting, seed: int = 0) -> Arguments:
    """Draw the operator's tensors, on a device the same ones for every dtype and layout of a shape."""
    generator = torch.Generator(setting.device).manual_seed(seed)
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


def computing(setting: Setting) -> dict[str, Provider]:
    """The providers that compute, by name."""

    def peer(conv: Operator, transform: Transform) -> Operator:
        return transform(conv)

    return providers(setting, peer, ours=lambda backend: partial(rda_conv2d, backend=backend))


def measure_setting(setting: Setting, effort: Effort) -> list[Record]:
    """Time all providers on one setting; one record per provider and way to launch."""
    fresh_start()
    sets = [random_arguments(setting, seed) for seed in range(set_count(setting))]
    providing = computing(setting)
    candidates = {name: Candidate.of(provider, sets, setting.mode) for name, provider in providing.items()}
    candidates["copy"] = Candidate([copy(arguments, setting.mode) for arguments in sets])
    candidates["into_existing"] = Candidate([copy_into(arguments, setting.mode) for arguments in sets])

    records = []
    existing: dict[str, float] = {}
    for record in measure(setting, candidates, floor="copy", effort=effort):
        if record["provider"] != "into_existing":
            records.append(record)
        elif is_measured(record):
            existing[record["launch"]] = record["ms"]
    for record in records:
        name, launch = record["provider"], record["launch"]
        if name == "copy" and launch in existing:
            record["ms_into_existing"] = existing[launch]
        if name in COUNTED and launch == "eager" and is_measured(record) and setting.mode == "forward_backward":
            record["saved_bytes"] = saved_bytes(providing[name].operator, sets[0].tensors)
    return records


def copy(arguments: Arguments, mode: str) -> Run:
    """The floor: the traffic of `mode` with fresh results, and next to no arithmetic."""
    x, grad_output = arguments.tensors[0].detach(), arguments.grad_output
    if mode == "forward":
        return lambda: x.clone()
    return lambda: (x.clone(), torch.add(x, grad_output))


def copy_into(arguments: Arguments, mode: str) -> Run:
    """The floor with results that exist beforehand."""
    x, grad_output = arguments.tensors[0].detach(), arguments.grad_output
    y, grad_x = torch.empty_like(x), torch.empty_like(x)
    if mode == "forward":
        return lambda: y.copy_(x)
    return lambda: (y.copy_(x), torch.add(x, grad_output, out=grad_x))


if __name__ == "__main__":
    main()
