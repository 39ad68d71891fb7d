# SPDX-License-Identifier: Apache-2.0
"""A model of the CUDA kernels' time, from the code that nvcc makes of them; it needs no GPU.

Compiles the kernels, counts the instructions of their row loops, and predicts the time on an H200 at one shape. A
kernel takes as long as the busiest part of the GPU: the schedulers, which issue one instruction of a warp per cycle,
shared memory, tensor cores or memory. How busy these get is an assumption, ISSUE_SHARE and COPY_SHARE, until it is
measured.
"""

import functools
import importlib.util
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.gpu_model` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.commands import check_json, parser
from benchmarks.records import OURS, Record, launch, load
from mrda.core.files import write_text

ROOT = Path(__file__).resolve().parent.parent
GPUS = ("80", "90", "100")
MODELLED_GPU = "90"

# An H200.
MULTIPROCESSORS, CLOCK = 132, 1.98e9
ISSUE = SCHEDULERS = MULTIPROCESSORS * 4 * CLOCK  # instructions of a warp, a second
SHARED = MULTIPROCESSORS * 128 * CLOCK  # bytes a second
COPY = 4.2e12  # bytes a second, read and written, by a copy
TENSOR_CYCLES = {"HMMA.16816": 6.4, "HMMA.1688": 3.2}  # of a scheduler's tensor core
ISSUE_SHARE = 0.70  # of ISSUE and SHARED; the first kernels reached 0.51 to 0.67 of ISSUE
COPY_SHARE = 0.92


@dataclass(frozen=True)
class Kernel:
    """A kernel's name and code, and what it does at the shape that is modelled.

    Attributes:
        name: "forward", "backward", ...
        dtype: of the tensors.
        source: file of csrc/cuda, without its suffix.
        function: regular expression for the kernel's mangled name.
        elements: results that a thread makes in one pass of the row loop, or of the first of `loops`.
        passes: passes of all warps together.
        moved: bytes that are read from memory or written, each once.
        shared_bytes: dynamic shared memory of a block.
        budget: instructions per element that the loop may have.
        shape: of the input, (B, C, H, W).
        loops: of a kernel that has others than a row loop, one after the other: the products of matrices in a pass, and
            passes of all warps together.
        gpus: that it is for; others compute this shape by a variant with a row of its own.
    """

    name: str
    dtype: str
    source: str
    function: str
    elements: int
    passes: int
    moved: int
    shared_bytes: int
    budget: float
    shape: tuple[int, int, int, int] = (16, 64, 360, 640)
    loops: tuple[tuple[int, int], ...] = ()
    gpus: tuple[str, ...] = GPUS


def strip_passes(columns: int, own_columns: int, tile_rows: int, more_rows: int) -> int:
    """Count the passes of a kernel for strips, each of `own_columns` results, whose tiles take `more_rows` passes more.

    `tile_rows` is how plan_strips of csrc/cuda/strip.cu splits (16, 64, 360, 640) on 132 multiprocessors.
    """
    batch, _, height, width = Kernel.shape
    tiles = batch * math.ceil(width / own_columns) * math.ceil(height / tile_rows)
    return tiles * 4 * (tile_rows + more_rows)


IMAGE = math.prod(Kernel.shape)
HALF = {"bfloat16": "13__nv_bfloat16", "float16": "6__half"}
FORWARD_HALF, FORWARD_FLOAT, BACKWARD = "strip_forward_half", "strip_forward_float", "strip_backward"
KERNELS = (
    *(
        Kernel(
            "forward",
            dtype,
            FORWARD_HALF,
            rf"{FORWARD_HALF}_kernelINS1_4HalfI{element}Li4ELi1EE",
            elements=32,
            passes=strip_passes(64, 64, 120, 2),
            moved=4 * IMAGE,
            shared_bytes=47_232,
            budget=13.5,
        )
        for dtype, element in HALF.items()
    ),
    Kernel(
        "forward",
        "float32",
        FORWARD_FLOAT,
        rf"{FORWARD_FLOAT}_kernelINS1_5FloatILi16EE",
        elements=16,
        passes=strip_passes(32, 32, 120, 2),
        moved=8 * IMAGE,
        shared_bytes=34_816,
        budget=24.0,
    ),
    *(
        Kernel(
            "backward",
            dtype,
            BACKWARD,
            rf"{BACKWARD}_kernelINS1_4GradI{element}Li16EE",
            elements=16,
            passes=strip_passes(32, 30, 120, 6),
            moved=6 * IMAGE,
            shared_bytes=82_240,
            budget=55.0,
        )
        for dtype, element in HALF.items()
    ),
    Kernel(
        "backward",
        "float32",
        BACKWARD,
        rf"{BACKWARD}_kernelINS1_4GradIfLi16EE",
        elements=16,
        passes=strip_passes(32, 30, 120, 5),
        moved=12 * IMAGE,
        shared_bytes=85_504,
        budget=52.5,
    ),
)

TRUNK = (1, 64, 180, 320)  # the published trunk's


def half_block(pieces: int, rows: int, gpus: tuple[str, ...], dtype: str) -> Kernel:
    """The kernel of half a block with the tile that plan_conv3x3 of csrc/cuda/conv3x3.cu picks for TRUNK."""
    warps, pitch = 8, 144
    tiles = math.ceil(TRUNK[2] / rows) * math.ceil(TRUNK[3] / (16 * pieces - 2))
    steered, mine = (rows + 2) * pieces, math.ceil(pieces * rows / warps)  # pieces of a tile, and of a warp
    pixels = (rows + 4) * (16 * pieces + 2) + (rows + 2) * 16 * pieces + 2 + 2 * TRUNK[1]
    return Kernel(
        "rda_conv3x3",
        dtype,
        "conv3x3",
        rf"rda_conv3x3_kernelI{HALF[dtype]}NS1_4TileILi{pieces}ELi{rows}ELi{warps}E",
        elements=32,
        passes=tiles * steered,
        moved=4 * math.prod(TRUNK),
        shared_bytes=pixels * pitch,
        budget=12.5,
        shape=TRUNK,
        loops=((52, tiles * steered), (96 * mine, tiles * warps * 3)),
        gpus=gpus,
    )


KERNELS += (
    *(half_block(3, 10, ("90", "100"), dtype) for dtype in HALF),
    *(half_block(2, 12, ("80",), dtype) for dtype in HALF),
    *(
        Kernel(
            "upscaler",
            dtype,
            "conv5x5",
            rf"conv5x5_kernelI{element}Li4E",
            elements=48,
            passes=240 * 8 * 25,  # 20 x 12 tiles inside of the ring
            moved=math.prod(TRUNK) * 2 + 180 * 320 * 48 * 4,
            shared_bytes=85_248,
            budget=5.0,
            shape=TRUNK,
            loops=((96, 240 * 8 * 25),),
        )
        for dtype, element in HALF.items()
    ),
)


def budget(kernel: Kernel, gpu: str) -> float:
    """The instructions per element that a kernel's loop may have on a GPU.

    sm_80 has no stmatrix: four stores in its place.
    """
    return kernel.budget + (0.5 if gpu == "80" else 0.0)


# ---- compiled code -------------------------------------------------------------------------------------------------


@functools.cache
def setup() -> ModuleType:
    """Load setup.py, which knows nvcc and the flags."""
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def find_cuobjdump() -> Path | None:
    """Find CUDA's disassembler: on the PATH, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    bundled = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump" if triton and triton.origin else None
    found = shutil.which("cuobjdump")
    return Path(found) if found else bundled if bundled is not None and bundled.exists() else None


def compile_sources(sources: Sequence[str], gpu: str, folder: Path) -> list[tuple[Path, str]]:
    """Compile files of the project for one GPU, as many at a time as there are processors.

    Returns:
        The cubin of each, and what ptxas said: registers and spills.
    """
    setup_ = setup()

    def compile_one(source: str) -> tuple[Path, str]:
        cubin = folder / f"{Path(source).stem}.cubin"
        command = [setup_.find_nvcc(), *setup_.CUDA_FLAGS, f"-arch=sm_{gpu}", "-Xptxas=-v", "-cubin", ROOT / source]
        done = subprocess.run([*command, "-o", cubin], capture_output=True, text=True, check=True)
        return cubin, done.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


@dataclass(frozen=True)
class Use:
    """A kernel's share of a multiprocessor; `local` is its bytes of stack frame and spills."""

    registers: int
    local: int


def uses(said: str) -> dict[str, Use]:
    """Read ptxas' messages: by the kernels' mangled names."""
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    return {
        name: Use(int(registers), int(stack) + int(stores) + int(loads))
        for name, stack, stores, loads, registers in re.findall(pattern, said, flags=re.DOTALL)
    }


Instructions = dict[int, str]  # by address


def disassemble(cubin: Path, functions: Sequence[str]) -> dict[str, Instructions]:
    """Return the machine code of some functions, by their mangled names."""
    command = [str(find_cuobjdump()), "--dump-sass", "--function", ",".join(functions), str(cubin)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    codes = re.findall(r"Function : (\w+)(.*?)(?=Function : |\Z)", said, flags=re.DOTALL)
    line = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(.*?)\s*;", flags=re.MULTILINE)
    return {name: {int(address, 16): text for address, text in line.findall(code)} for name, code in codes}


def row_loop(code: Instructions) -> list[str]:
    """Return the instructions of one pass of the longest loop, by the way that copies and computes a row.

    Leaving out the last rows' copies is a jump, and computing again what is not finite a loop of its own.
    """
    passes = [walk(code, target(text), at) for at, text in code.items() if is_jump(text) and target(text) < at]
    return max(passes, key=len)


def loop_of(code: Instructions, products: int) -> list[str]:
    """Return the instructions of the shortest loop with so many products of matrices."""
    loops = [
        [text for address, text in code.items() if target(jump) <= address <= last]
        for last, jump in code.items()
        if is_jump(jump) and target(jump) < last
    ]
    return min((loop for loop in loops if sum("HMMA" in text for text in loop) == products), key=len)


def is_jump(text: str) -> bool:
    return re.search(r"\bBRA\b", text) is not None and re.search(r"0x[0-9a-f]+", text) is not None


def target(text: str) -> int:
    return int(re.findall(r"0x[0-9a-f]+", text)[-1], 16)


def walk(code: Instructions, first: int, last: int) -> list[str]:
    """Follow the code from one address to another, into no loop on the way, and straight on where there is a choice.

    Returns:
        The instructions; none if all ways lead elsewhere.
    """
    loops = [range(target(text), at + 1) for at, text in code.items() if is_jump(text) and target(text) <= at]
    inner = [loop for loop in loops if first < loop.start and loop.stop <= last]
    following = dict(itertools.pairwise(sorted(code)))
    ways: list[tuple[int | None, list[str]]] = [(first, [])]  # the last one is tried next
    seen: set[int] = set()
    while ways:
        at, way = ways.pop()
        while at is not None and at not in seen and not any(at in loop for loop in inner):
            seen.add(at)
            way.append(code[at])
            if at == last:
                return way
            after = following.get(at)
            if is_jump(code[at]) and re.match(r"BRA(\.\w+)*\s+0x", code[at]):
                after = target(code[at])
            elif is_jump(code[at]):
                ways.append((target(code[at]), way.copy()))
            at = after
    return []


def operation(text: str) -> str:
    """Return an instruction without its predicate and operands, "LDS.128"."""
    return re.sub(r"^@!?U?P[T\d]+\s+", "", text).split()[0]


# ---- time ----------------------------------------------------------------------------------------------------------


def shared_bytes(text: str) -> int:
    """Count the bytes that an instruction of a warp moves to or from shared memory."""
    name = operation(text)
    if text.startswith("@!PT") or not re.match(r"LDSM|STSM|LDS|STS|LDGSTS", name):
        return 0
    if name.startswith(("LDSM", "STSM")):
        return 512
    width = re.search(r"\.(64|128)\b", name)
    return 4 * int(width[1]) if width else 128


def predict(kernel: Kernel, loops: Sequence[list[str]]) -> float:
    """Predict a kernel's milliseconds on an H200, from its loops, one after the other."""
    passes = [count for _, count in kernel.loops] or [kernel.passes]
    seconds = sum(busy_seconds(loop, count) for loop, count in zip(loops, passes, strict=True))
    return 1e3 * max(seconds / ISSUE_SHARE, kernel.moved / COPY / COPY_SHARE)


def busy_seconds(loop: list[str], passes: int) -> float:
    """Return the time that passes of a loop keep the busiest part of the multiprocessors."""
    issue = passes * len(loop) / ISSUE
    shared = passes * sum(map(shared_bytes, loop)) / SHARED
    tensor_cycles = sum(
        cycles for text in loop for name, cycles in TENSOR_CYCLES.items() if operation(text).startswith(name)
    )
    return max(issue, shared, passes * tensor_cycles / SCHEDULERS)


OPS = {"forward": "rda_conv2d", "backward": "rda_conv2d"}  # of the benchmarks; others are named as their kernels


def measured(kernel: Kernel, records: list[Record]) -> float | None:
    """Return the time of a kernel from records of benchmarks/rda_conv.py and rda_block.py; None if it is not there.

    A kernel of microseconds counts as a part of a CUDA graph: launched by itself, it waits for the host.
    """
    is_short = kernel.shape == TRUNK
    keys = {"op": OPS.get(kernel.name, kernel.name), "dtype": kernel.dtype, "layout": "nhwc", "provider": OURS}
    keys |= {"shape": list(kernel.shape), "device": "cuda"}

    def time(mode: str) -> float | None:
        wanted = keys | {"mode": mode}
        found = [r for r in records if wanted.items() <= r.items() and launch(r) == ("graph" if is_short else "eager")]
        return found[0].get("ms") if found else None

    if kernel.name != "backward":
        return time("forward")
    forward, both = time("forward"), time("forward_backward")
    return None if forward is None or both is None else both - forward


def records_for(gpu: str, folder: Path, times: list[Record]) -> list[Record]:
    """Compile all kernels for one GPU, and describe each."""
    sources = [f"csrc/cuda/{source}.cu" for source in dict.fromkeys(kernel.source for kernel in KERNELS)]
    compiled = {cubin.stem: (cubin, uses(said)) for cubin, said in compile_sources(sources, gpu, folder)}
    found = []
    for kernel in (kernel for kernel in KERNELS if gpu in kernel.gpus):
        cubin, use = compiled[kernel.source]
        (name,) = [name for name in use if re.search(kernel.function, name)]
        code = disassemble(cubin, [name])[name]
        loops = [loop_of(code, products) for products, _ in kernel.loops] or [row_loop(code)]
        modelled = gpu == MODELLED_GPU
        found.append(
            {
                "kernel": kernel.name,
                "dtype": kernel.dtype,
                "arch": f"sm_{gpu}",
                "shape": list(kernel.shape),
                "instructions_per_element": len(loops[0]) / kernel.elements,
                "registers": use[name].registers,
                "spills": use[name].local,
                "shared_bytes": kernel.shared_bytes,
                "copy_ms": 1e3 * kernel.moved / COPY if modelled else None,
                "predicted_ms": predict(kernel, loops) if modelled else None,
                "measured_ms": measured(kernel, times) if modelled else None,
            }
        )
    return found


def line(record: Record) -> str:
    """A line of the table that is printed."""

    def ms(key: str) -> str:
        return "-" if record[key] is None else f"{record[key]:.3f}"

    return (
        f"{record['kernel']:12} {record['dtype']:9} {record['arch']:7} {record['instructions_per_element']:6.1f} "
        f"instructions per element, {record['registers']:3} registers, {record['spills']} bytes spilled, "
        f"{record['shared_bytes']:6} shared, a copy {ms('copy_ms')} ms, predicted {ms('predicted_ms')} ms, "
        f"measured {ms('measured_ms')} ms"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    command = parser(__doc__ or "")
    command.add_argument(
        "--measured", nargs="+", type=Path, default=[], metavar="FILE", help="records of rda_conv.py and rda_block.py"
    )
    command.add_argument("--gpus", nargs="+", choices=GPUS, default=GPUS, help="to compile for (default: all)")
    options = command.parse_args(arguments)
    check_json(command, options.json)
    if setup().find_nvcc() is None or find_cuobjdump() is None:
        command.error("the model needs nvcc and cuobjdump; install NVIDIA's CUDA toolkit")
    if missing := [path for path in options.measured if not path.exists()]:
        command.error(f"--measured is {missing[0]}, but there is no such file")
    times = [record for path in options.measured for record in load(path)]
    found: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        for gpu in options.gpus:
            found += records_for(gpu, Path(folder), times)
    for record in found:
        print(line(record))
    if options.json is not None:
        write_text(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
