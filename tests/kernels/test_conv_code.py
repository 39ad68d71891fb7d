"""The machine code of the kernels of half a block and of the upscaler: what it takes, how it moves, how long it is."""

import functools
import re

import pytest
from test_cuda_build import needs_cuobjdump, needs_nvcc

from benchmarks import gpu_model

pytestmark = [needs_nvcc, needs_cuobjdump, pytest.mark.slow]
GPUS = gpu_model.GPUS
SOURCES = ["csrc/cuda/conv3x3.cu", "csrc/cuda/conv5x5.cu"]
# Threads and blocks of a multiprocessor, by the kernel's mangled name.
RESIDENT = {"4TileILi3ELi10ELi8E": (256, 1), "4TileILi2ELi12ELi8E": (256, 1), "4TileILi1ELi12ELi6E": (192, 2)}


@functools.cache
def compiled(gpu, folder):
    """Compile both files for one GPU, once: the machine code of each kernel, and the messages of ptxas about it."""
    codes, said = {}, {}
    for cubin, messages in gpu_model.compile_sources(SOURCES, gpu, folder):
        uses = dict(re.findall(r"Compiling entry function '(\w+)'(.*?registers)", messages, flags=re.DOTALL))
        said |= uses
        codes |= gpu_model.disassemble(cubin, list(uses))
    return codes, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("conv_code")


@pytest.mark.parametrize("gpu", GPUS)
def test_nothing_is_spilled_and_blocks_fit_on_a_multiprocessor(gpu, folder):
    _, said = compiled(gpu, folder)
    assert len(said) == 6 + 6  # a tile and a dtype each; a scale and a dtype each
    for name, use in said.items():
        assert re.search(r"\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", use), name
        threads, blocks = next((resident for tile, resident in RESIDENT.items() if tile in name), (256, 2))
        assert int(re.search(r"Used (\d+)", use)[1]) * threads * blocks <= 65536, name


@pytest.mark.parametrize("gpu", GPUS)
def test_memory_is_moved_16_bytes_at_a_time(gpu, folder):
    codes, _ = compiled(gpu, folder)
    for name, code in codes.items():
        text = "\n".join(code.values())
        assert re.search(r"LDGSTS\S*\.128 ", text), name
        assert not re.search(r"LDGSTS(?!\S*\.128 )\S* ", text), name
        assert not re.search(r"LDSM(?!\S*\.4 )\S* ", text), name
        if not re.search(r"conv5x5_kernelI\w+Li[23]E", name):  # results of x2 and x3 lie in no whole vectors
            assert re.search(r"STG\S*\.128 ", text), name
            assert not re.search(r"STG(?!\S*\.128 )\S* ", text), name
        assert not re.search(r"\b(STL|LDL)\b|\bST\.", text), name
        if gpu != "80":  # before, lanes meet by calls
            assert "CALL" not in text, name


# A piece of 16 pixels and 64 channels, so 32 elements a lane, and three taps of the static convolution for some pieces;
# a tap of the upscaler's.
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize(
    "kernel", [kernel for kernel in gpu_model.KERNELS if kernel.loops], ids=lambda k: f"{k.name}-{k.dtype}-{k.gpus[0]}"
)
def test_loops_are_as_short_as_the_model_of_their_time_assumes(folder, gpu, kernel):
    if gpu not in kernel.gpus:
        pytest.skip("another tile serves there")
    codes, _ = compiled(gpu, folder)
    (code,) = [code for name, code in codes.items() if re.search(kernel.function, name)]
    first, *others = (gpu_model.loop_of(code, products) for products, _ in kernel.loops)
    assert len(first) / kernel.elements <= gpu_model.budget(kernel, gpu)
    for loop, (products, _) in zip(others, kernel.loops[1:], strict=True):
        assert len(loop) <= 2 * products
