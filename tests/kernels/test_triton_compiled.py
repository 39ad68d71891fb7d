"""The Triton kernels compiled for GPUs, without one: registers, spills and the width of loads at the shipped tiles.

Triton's interpreter, which the other tests use, is on or off for a whole process. So this file is a program too: it
lets the backend launch its kernels on tensors without data, compiles what it launches, and prints what came out.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

SHAPE = (16, 64, 360, 640)
NVIDIA = (80, 90, 100)


def case(direction, *, targets=NVIDIA, **options):
    defaults = {"shape": SHAPE, "dtype": "bfloat16", "channels_last": True, "kernel_size": 3, "masks": 1}
    return {"direction": direction, "targets": targets, "output_negative_slope": None, **defaults, **options}


CASES = [
    case(direction, dtype=dtype, channels_last=channels_last, targets=NVIDIA if channels_last else (90,))
    for direction in ("forward", "backward")
    for dtype in ("bfloat16", "float32")
    for channels_last in (True, False)
] + [
    case(direction, targets=(90,), **options)
    for direction in ("forward", "backward")
    for options in (
        {"dtype": "float16"},
        {"dtype": "float64"},
        {"output_negative_slope": 0.1},
        {"masks": 64},
        {"masks": 0},
        {"masks": 0, "channels_last": False},
        {"kernel_size": 1},
        {"kernel_size": 5},
        {"kernel_size": 7, "masks": 64},
        {"shape": (2, 60, 1, 1)},  # sizes of 1 become constants; channels that no vector divides
        {"shape": (1, 180, 48, 48), "channels_last": False, "masks": 180},
        {"shape": (3000, 64, 256, 256)},  # beyond 2^31 elements
    )
]
AMD = [case(direction, targets=("gfx942",), channels_last=c) for direction in ("forward", "backward") for c in (0, 1)]


def name(case):
    options = {k: v for k, v in case.items() if v is not None and k != "targets"}
    options["shape"] = "x".join(map(str, case["shape"]))
    return " ".join(f"{k}={v}" for k, v in options.items())


# ---- as a program --------------------------------------------------------------------------------------------------


def launched(case):
    """The kernel that the backend would launch, its arguments and options."""
    import torch

    from mrda_kernels.backends import triton as backend
    from mrda_kernels.backends import triton_configs, triton_kernels
    from mrda_kernels.call import RdaCall

    kernel = getattr(triton_kernels, case["direction"])
    seen = []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *args, **options: seen.append((args, options))

    class Kernels:
        forward = backward = Recorder()

    backend._kernels = lambda: Kernels
    layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
    options = {"dtype": getattr(torch, case["dtype"]), "device": "meta"}
    batch, channels = case["shape"][:2]
    input = torch.empty(case["shape"], memory_format=layout, **options)
    weight = torch.empty(batch, channels, case["kernel_size"], case["kernel_size"], **options)
    mask_weight = torch.empty(case["masks"], channels, 1, 1, **options) if case["masks"] else None
    mask_bias = torch.empty(case["masks"], **options) if case["masks"] else None
    call = RdaCall(input, weight, mask_weight, mask_bias, 0.1, case["output_negative_slope"])
    config = triton_configs.shipped(backend._problem(call, case["direction"]))
    if case["direction"] == "forward":
        backend._forward(call, config)
    else:
        backend._backward(torch.empty_like(input), call, config)
    ((arguments, launch_options),) = seen
    return kernel, arguments, launch_options


def as_source(kernel, arguments):
    """Make the source that Triton's launcher would compile: sizes of 1 are constants, others may be multiples of 16."""
    import torch
    from triton.compiler import ASTSource
    from triton.runtime.jit import mangle_type

    signature, constants, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(kernel.params, arguments, strict=True)):
        if parameter.is_constexpr or (type(value) is int and value == 1 and not parameter.do_not_specialize):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = parameter.annotation_type or mangle_type(value)
        specialized = isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0)
        if specialized and not parameter.do_not_specialize:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def resources(cubin):
    """Registers and local memory of a kernel, and how often each instruction occurs in it."""
    import tempfile

    import triton.backends.nvidia

    cuobjdump = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([cuobjdump, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]*)", code, re.M)
    return {**numbers, "instructions": Counter(instructions), "order": instructions}


def compiled(case, target):
    import triton
    from triton.backends.compiler import GPUTarget

    kernel, arguments, options = launched(case)
    nvidia = isinstance(target, int)
    if not nvidia:
        options.pop("maxnreg", None)
    gpu = GPUTarget("cuda", target, 32) if nvidia else GPUTarget("hip", target, 64)
    result = triton.compile(as_source(kernel, arguments), target=gpu, options=options)
    found = {"case": name(case), "target": target, "shared": result.metadata.shared, "options": options}
    return {**found, **(resources(result.asm["cubin"]) if nvidia else {"bytes": len(result.asm["hsaco"])})}


if __name__ == "__main__":
    for one in json.load(sys.stdin):
        for gpu in one["targets"]:
            print(json.dumps(compiled(one, gpu)), flush=True)


# ---- tests ---------------------------------------------------------------------------------------------------------


def compile_elsewhere(cases, cache):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(__file__).parents[2]
    environment.update(TRITON_CACHE_DIR=str(cache), PYTHONPATH=str(root))
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(cases), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {(r["case"], r["target"]): r for r in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return compile_elsewhere(CASES, tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize(
    ("compiled_case", "target"),
    [pytest.param(c, t, id=f"{name(c)} sm_{t}") for c in CASES for t in c["targets"]],
)
def test_nothing_spills(results, compiled_case, target):
    found = results[name(compiled_case), target]
    assert found["STACK"] == 0
    assert found["LOCAL"] == 0
    assert not {i for i in found["instructions"] if i.startswith(("LDL", "STL"))}
    assert found["REG"] <= 255
    assert found["shared"] <= 48 * 1024


@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_channels_last_loads_are_16_bytes_wide(results, direction, dtype, target):
    instructions = results[name(case(direction, dtype=dtype)), target]["instructions"]
    # K reads of a row and one of its middle; float32 of all that the backward reads
    at_least = 4 if dtype == "bfloat16" else 7
    if direction == "backward" and dtype == "bfloat16":
        at_least = 9  # the rows that threads show each other, in float32; those of the image are 8 bytes wide here
    assert instructions["LDG.E.128"] >= at_least


def test_half_precision_loads_are_16_bytes_wide_too(results):
    assert results[name(case("forward", targets=(90,), dtype="float16")), 90]["instructions"]["LDG.E.128"] >= 4


@pytest.mark.parametrize("target", NVIDIA)
def test_rows_are_shown_before_a_barrier_and_read_after_it(results, target):
    order = results[name(case("backward")), target]["order"]
    barrier = next(i for i, instruction in enumerate(order) if instruction.startswith("BAR.SYNC"))
    assert any(i.startswith("STG.E.128") for i in order[:barrier])
    assert any(i.startswith("LDG.E.128") for i in order[barrier:])
    assert not any("CONSTANT" in i for i in order if i.startswith("LDG"))  # that cache would not see the writes


@pytest.mark.slow
def test_the_kernels_compile_for_amd(tmp_path):
    found = compile_elsewhere(AMD, tmp_path)
    assert len(found) == len(AMD)
    assert all(r["bytes"] > 0 for r in found.values())
