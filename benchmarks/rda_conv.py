"""Time the RDA conv against other ways to compute it, all in one process.

    python benchmarks/rda_conv.py --device cpu --json benchmarks/results/rda_conv_cpu.json

Providers: "released", the released network's way; "released_compiled" and "shift_add_compiled", that and a
sum of shifted products under torch.compile; "mrda_kernels"; and "copy", the floor: the bytes that the
operator has to read and write, and no arithmetic. Counted in tensors of the input's size,

- forward moves 2: x is read, y written; the floor is `x.clone()`;
- forward_backward moves 5: those, then x and grad_y are read and grad_x is written; the floor is `x.clone()`
  and `x + grad_y`.

The floor makes a new result, as every provider must. On a CPU that is often fresh memory, whose first touch can
cost more than the copy itself; how often, the C library decides: by its own rules, as in any Python process, or
under `--keep-memory`, which spares all providers most of it. `ms_into_existing` is the same copy into tensors that
exist.
"""

import json
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.rda_conv` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch._dynamo
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from benchmarks.peers import released, shift_add
from benchmarks.table import Record, details, footer, summary
from benchmarks.timing import clock_for, interleaved
from mrda.files import atomic_write
from mrda.memory import keep_freed_memory
from mrda_kernels import dispatch, rda_conv2d

OP = "rda_conv2d"
MODES = ("forward", "forward_backward")
TENSORS_MOVED = {"forward": 2, "forward_backward": 5}
MEMORY_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}

SHAPES = ((1, 64, 180, 320), (16, 64, 64, 64), (64, 64, 64, 64), (1, 64, 720, 1280))
QUICK_SHAPES = SHAPES[:2]
KERNEL_SIZE = 3
SECONDS = 3.0
MIN_ROUNDS = 5

Operator = Callable[..., Tensor]
Run = Callable[[], object]


class Device(StrEnum):
    """Where to measure."""

    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True)
class Setting:
    """What one comparison is made on."""

    device: str
    dtype: torch.dtype
    layout: str
    shape: tuple[int, int, int, int]
    mode: str

    @property
    def bytes_moved(self) -> int:
        """The bytes that any provider has to read or write."""
        batch, channels, height, width = self.shape
        return TENSORS_MOVED[self.mode] * batch * channels * height * width * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.shape} {dtype_name(self.dtype)} {self.layout} {self.mode}"


@dataclass(frozen=True)
class Arguments:
    """The operator's tensors, and a gradient of its result in the input's layout."""

    tensors: tuple[Tensor, Tensor, Tensor, Tensor]
    grad_output: Tensor

    @classmethod
    def random(cls, setting: Setting) -> "Arguments":
        """Draw them, the same ones for every dtype and layout of a shape."""
        generator = torch.Generator().manual_seed(0)
        batch, channels, _, _ = setting.shape

        def draw(*size: int) -> Tensor:
            values = torch.randn(size, generator=generator)
            return values.to(setting.device, setting.dtype, memory_format=MEMORY_FORMATS[setting.layout])

        x, grad_output = draw(*setting.shape), draw(*setting.shape)
        weight = draw(batch, channels, KERNEL_SIZE, KERNEL_SIZE).contiguous() / KERNEL_SIZE
        mask_weight = draw(1, channels, 1, 1).contiguous() / channels**0.5
        mask_bias = torch.zeros(1, device=setting.device, dtype=setting.dtype)
        needs_grad = setting.mode == "forward_backward"
        tensors = (x, weight, mask_weight, mask_bias)
        return cls(tuple(t.requires_grad_(needs_grad) for t in tensors), grad_output)  # type: ignore[arg-type]


def main(
    device: Annotated[Device, typer.Option(help="Where to measure.")] = Device.cpu,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the records to this file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two shapes in float32 only.")] = False,
    keep_memory: Annotated[
        bool, typer.Option("--keep-memory", help="Let the C library keep freed memory, as the program mrda does.")
    ] = False,
) -> None:
    """Time the RDA conv against the released network's way, torch.compile, and a copy of the same bytes."""
    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise typer.BadParameter(f"--json is {json_path}, but its folder does not exist")
    if device is Device.cuda and not torch.cuda.is_available():
        raise typer.BadParameter("--device is cuda, but torch finds no NVIDIA GPU here")
    try:
        dispatch.select(device.value, device.value)
    except (ValueError, RuntimeError) as error:
        raise typer.BadParameter(f"there is nothing to measure on {device}: {error}") from error

    if keep_memory:
        keep_freed_memory()
    todo = settings(device.value, quick)
    records: list[Record] = []
    console = Console()
    with progress() as bar:
        task = bar.add_task("", total=len(todo))
        for setting in todo:
            bar.update(task, description=str(setting), refresh=True)
            records += measure(setting)
            bar.advance(task)
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    console.print(details(records))
    console.print(summary(records))
    for line in footer(records):
        console.print(line, highlight=False, soft_wrap=True)


def settings(device: str, quick: bool) -> list[Setting]:
    """Everything to measure, in order."""
    return [
        Setting(device, dtype, layout, shape, mode)
        for shape in (QUICK_SHAPES if quick else SHAPES)
        for dtype in ((torch.float32,) if quick else (torch.float32, torch.bfloat16))
        for layout in MEMORY_FORMATS
        for mode in MODES
    ]


def operators(device: str) -> dict[str, Operator]:
    """The providers that compute, by name; those under torch.compile are not compiled yet."""
    # Without fullgraph, torch.compile would silently hand parts of a peer back to eager PyTorch.
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    return {
        "released": released,
        "released_compiled": compiled(released),
        "shift_add_compiled": compiled(shift_add),
        "mrda_kernels": partial(rda_conv2d, backend=device),
    }


def measure(setting: Setting, seconds: float = SECONDS, min_rounds: int = MIN_ROUNDS) -> list[Record]:
    """Time all providers on one setting.

    Args:
        setting: what to measure on.
        seconds: as for `benchmarks.timing.interleaved`.
        min_rounds: likewise.

    Returns:
        One record per provider.
    """
    torch._dynamo.reset()  # else the peers of an earlier setting count against the limit on recompilations
    arguments = Arguments.random(setting)
    computing = operators(setting.device)
    copies = {"copy": copy(arguments, setting.mode), "into_existing": copy_into(arguments, setting.mode)}
    runs = {name: call(operator, arguments, setting.mode) for name, operator in computing.items()} | copies

    clock = clock_for(torch.device(setting.device))
    with torch.no_grad() if setting.mode == "forward" else nullcontext():
        timings = interleaved(runs, clock, seconds=seconds, min_rounds=min_rounds)

    records: list[Record] = []
    for provider in (*computing, "copy"):
        ms = timings[provider].ms
        records.append(
            {
                "op": OP,
                "provider": provider,
                "device": setting.device,
                "dtype": dtype_name(setting.dtype),
                "layout": setting.layout,
                "shape": list(setting.shape),
                "mode": setting.mode,
                "ms": ms,
                "gbps": setting.bytes_moved / ms / 1e6,
                "floor_ratio": ms / timings["copy"].ms,
                "rounds": timings[provider].rounds,
            }
            | environment(setting.device)
        )
        if provider == "copy":
            records[-1]["ms_into_existing"] = timings["into_existing"].ms
        if provider in {"released", "mrda_kernels"} and setting.mode == "forward_backward":
            records[-1]["saved_bytes"] = saved_bytes(computing[provider], arguments.tensors)
    return records


def call(operator: Operator, arguments: Arguments, mode: str) -> Run:
    """One call of an operator, with its backward where `mode` says so."""
    if mode == "forward":
        return lambda: operator(*arguments.tensors)
    return lambda: torch.autograd.grad(operator(*arguments.tensors), arguments.tensors, arguments.grad_output)


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


def saved_bytes(operator: Operator, tensors: tuple[Tensor, ...]) -> int:
    """The bytes that a call keeps alive for its backward, its inputs among them."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no other can come to lie at its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        operator(*tensors)
    return sum(storage.nbytes() for storage in storages.values())


def environment(device: str) -> dict[str, Any]:
    """What the times depend on besides the code."""
    name = cpu_name() if device == "cpu" else torch.cuda.get_device_name()
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": name}


def cpu_name() -> str:
    """The processor's name where the system tells, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names: Iterator[str] = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def dtype_name(dtype: torch.dtype) -> str:
    """Its name without "torch."."""
    return str(dtype).removeprefix("torch.")


def progress() -> Progress:
    """A bar on the standard error, drawn between settings only: drawing would disturb the times."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)


if __name__ == "__main__":
    typer.run(main)
