"""The native kernels run on torch's own threads, and their results do not depend on how many there are."""

import subprocess
import sys

import pytest
import torch
from calls import Call, interpreted, skip_if_interpreted

from mrda_kernels import dispatch

OPS = torch.ops.mrda_kernels
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(call, backend):
    arguments = (*call.tensors(), *call.options)
    yield OPS.rda_conv2d(*arguments, backend)
    yield from OPS.rda_conv2d_backward(call.grad_output(), *arguments, backend)
    yield OPS.dynamic_depthwise_conv2d(*arguments[:2], 0.1, backend)
    yield from OPS.dynamic_depthwise_conv2d_backward(call.grad_output(), *arguments[:2], 0.1, backend)


@pytest.mark.usefixtures("any_number_of_threads")
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("full_mask", [False, True], ids=["M=1", "M=C"])
@pytest.mark.parametrize("shape", [(3, 5, 50, 70), (1, 3, 200, 150), (130, 2, 3, 5)])
def test_results_are_the_same_to_the_bit(backend, layout, full_mask, shape):
    skip_if_interpreted(backend, shape[0] != 3)
    if interpreted(backend):  # several programs all the same
        shape = (2, 3, 4, 5)
    call = Call(shape, layout=layout, full_mask=full_mask, dyadic=False, output_negative_slope=0.1)
    torch.set_num_threads(1)
    alone = list(run(call, backend))
    assert all(torch.equal(a, b) for a, b in zip(alone, run(call, backend), strict=True))
    # torch's convolutions, of which the reference is made, promise this for one number of threads only; emulations
    # take no threads
    exempt = backend in ("reference", dispatch.EMULATED) or interpreted(backend)
    for threads in () if exempt else (2, 3):
        torch.set_num_threads(threads)
        for _ in range(3):  # which thread takes which task changes from run to run
            assert all(torch.equal(a, b) for a, b in zip(alone, run(call, backend), strict=True))


def measure(code: str) -> str:
    """Return what ``code`` prints in a separate process, with four threads."""
    setup = """
import os, re, torch
torch.set_num_threads(4)
x, kernels = torch.randn(2, 8, 64, 64), torch.randn(2, 8, 3, 3)
dense, mask = torch.randn(8, 8, 3, 3), torch.randn(1, 8, 1, 1)
def conv(): torch.conv2d(x, dense, padding=1)
def threads(): return len(os.listdir("/proc/self/task"))
"""
    done = subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@LINUX
def test_no_second_openmp_runtime_is_loaded():
    printed = measure("""
from mrda_kernels import rda_conv2d
conv(); rda_conv2d(x, kernels, mask)
mapped = set(re.findall(r"/\\S+", open("/proc/self/maps").read()))
print(*[path for path in mapped if re.search(r"/lib(gomp|i?omp)[^/]*$", path)])
""")
    assert len(printed.split()) == 1


@LINUX
def test_alternating_with_torch_starts_no_more_threads():
    alone = measure("for _ in range(20): conv()\nprint(threads())")
    mixed = measure("""
from mrda_kernels import rda_conv2d
for _ in range(20):
    conv(); rda_conv2d(x, kernels, mask)
print(threads())
""")
    assert mixed == alone


@LINUX
def test_the_work_is_shared_among_threads():
    # the operator alone makes torch's threads appear
    printed = measure("""
from mrda_kernels import rda_conv2d
from mrda_kernels.backends import cpu
before = threads()
rda_conv2d(x, kernels, mask, backend="cpu" if cpu.why_not("cpu") is None else None)
print(before, threads(), cpu.shares_torch_threads)
""").split()
    if printed[2] == "False":
        pytest.skip("this torch has no OpenMP runtime to share, or the extension is not built")
    assert int(printed[1]) - int(printed[0]) == 3
