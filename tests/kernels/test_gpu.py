"""Tests of what only a GPU can show: streams, graphs, devices, large tensors, NVIDIA's checkers. The correctness suite
runs there too, by the `backend` fixture.
"""

import shutil
import subprocess
import sys

import pytest
import torch
from budget import RdaBudget
from calls import Call

from mrda_kernels import dispatch, rda_conv2d, reference
from mrda_kernels.call import RdaCall

OPS = torch.ops.mrda_kernels
pytestmark = pytest.mark.gpu


@pytest.fixture(params=["cuda", "triton"])
def gpu_backend(request):
    reason = dispatch.load(request.param).why_not("cuda")
    assert reason is None, reason
    return request.param


def on_gpu(call, device="cuda"):
    format_ = torch.channels_last if call.layout == "channels_last" else torch.contiguous_format
    input, *small = (None if t is None else t.to(device) for t in call.tensors())
    return [input.contiguous(memory_format=format_), *small]


def forward_and_backward(tensors, backend):
    output = rda_conv2d(*tensors, output_negative_slope=0.1, backend=backend)
    return [output, *torch.autograd.grad(output.square().sum(), tensors)]


CALL = Call((2, 64, 33, 47), dyadic=False, layout="channels_last", output_negative_slope=0.1)


def test_the_default_is_a_backend_made_for_gpus():
    assert dispatch.select(None, "cuda").__name__.rsplit(".", 1)[-1] in {"cuda", "triton"}


def test_work_goes_to_the_current_stream(gpu_backend):
    tensors = on_gpu(CALL)
    expected = rda_conv2d(*tensors, backend=gpu_backend)
    late = torch.full_like(tensors[0], float("nan"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # cycles; a kernel on any other stream would be done long before
        late.copy_(tensors[0])
        output = rda_conv2d(late, *tensors[1:], backend=gpu_backend)
    stream.synchronize()
    assert torch.equal(output, expected)


@pytest.mark.parametrize("full_mask", [False, True], ids=["M=1", "M=C"])
def test_a_graph_replays_on_new_input(gpu_backend, full_mask):
    call = Call((2, 64, 33, 47), dyadic=False, layout="channels_last", full_mask=full_mask)
    tensors = [t.requires_grad_() for t in on_gpu(call)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # what is done at a first call alone is not to be captured
            forward_and_backward(tensors, gpu_backend)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_backward(tensors, gpu_backend)
    with torch.no_grad():
        tensors[0].mul_(-0.5)
    graph.replay()
    torch.cuda.synchronize()
    for got, expected in zip(captured, forward_and_backward(tensors, gpu_backend), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_work_goes_to_the_tensors_device(gpu_backend):
    there, here = ([t.requires_grad_() for t in on_gpu(CALL, device)] for device in ("cuda:1", "cuda:0"))
    expected = [t.cpu() for t in forward_and_backward(here, gpu_backend)]
    with torch.cuda.device(0):
        got = forward_and_backward(there, gpu_backend)
        assert torch.cuda.current_device() == 0
    assert all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_nothing_is_allocated_but_the_result(gpu_backend, layout):
    tensors = on_gpu(Call((4, 64, 64, 64), layout=layout))
    rda_conv2d(*tensors, backend=gpu_backend)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = rda_conv2d(*tensors, backend=gpu_backend)
    assert torch.cuda.max_memory_allocated() - before == output.untyped_storage().nbytes()


def test_compiled_by_inductor_it_agrees_with_eager(gpu_backend):
    def function(input, *small):
        return rda_conv2d(input.relu() + 1, *small, backend=gpu_backend).square().mean()

    eager, traced = ([t.requires_grad_() for t in on_gpu(CALL)] for _ in range(2))
    function(*eager).backward()
    torch.compile(function, fullgraph=True)(*traced).backward()
    for a, b in zip(eager, traced, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5 * float(a.grad.abs().max()))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_networks_shape_stays_within_the_budget(gpu_backend, layout, dtype):
    call = Call((2, 64, 180, 320), dtype=dtype, layout=layout, dyadic=False, output_negative_slope=0.1)
    arguments = (*on_gpu(call), *call.options)
    grad_output = torch.randn_like(arguments[0])
    torch.set_default_device("cuda")
    try:
        budget = RdaBudget(*arguments, exact_z=False)
        budget.forward().check(OPS.rda_conv2d(*arguments, gpu_backend), "output")
        grads = OPS.rda_conv2d_backward(grad_output, *arguments, gpu_backend)
        names = ("grad_input", "grad_weight", "grad_mask_weight", "grad_mask_bias")
        for name, grad, bounded in zip(names, grads, budget.backward(grad_output), strict=True):
            bounded.check(grad, name)
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_beyond_two_to_the_31_elements(gpu_backend, layout):
    shape = (1, 64, 5800, 5800)  # 2.15e9
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    format_ = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    input = torch.empty(shape, dtype=torch.bfloat16, device="cuda", memory_format=format_)
    input.normal_(generator=torch.Generator("cuda").manual_seed(0))
    weight = torch.randn(1, 64, 3, 3, dtype=torch.bfloat16, device="cuda")
    mask_weight = 0.1 * torch.randn(1, 64, 1, 1, dtype=torch.bfloat16, device="cuda")
    for call in (RdaCall.bare(input, weight), RdaCall(input, weight, mask_weight)):
        output = dispatch.load(gpu_backend).forward(call)
        for rows in (slice(0, 4), slice(5796, 5800)):  # the border taken from outside is not exact: compare inside
            near = slice(max(rows.start - 1, 0), rows.stop + 1)
            expected = reference.forward(call._replace(input=input[:, :, near].contiguous()))
            got = output[:, :, near]
            inner = slice(0, -1) if rows.start == 0 else slice(1, None)
            torch.testing.assert_close(got[:, :, inner], expected[:, :, inner], rtol=2**-7, atol=1e-2)


SANITIZED = """
import torch
from mrda_kernels import conv5x5_shuffle, dynamic_depthwise_conv2d, rda_conv2d, rda_conv3x3
def tensor(*shape, dtype):  # made on the CPU: only the kernels in question run on the GPU
    return torch.randn(shape, dtype=dtype).cuda().requires_grad_()
for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
    for size, channels, masks in ((3, 64, 1), (3, 7, 1), (5, 16, 1), (3, 24, 24)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = tensor(1, channels, 19, 37, dtype=dtype).detach().contiguous(memory_format=layout).requires_grad_()
            w, m = tensor(1, channels, size, size, dtype=dtype), tensor(masks, channels, 1, 1, dtype=dtype)
            for y in rda_conv2d(x, w, m, backend="cuda"), dynamic_depthwise_conv2d(x, w, backend="cuda"):
                y.backward(y.detach())  # a gradient in the layout of the result
with torch.no_grad():
    for dtype in (torch.bfloat16, torch.float16):
        w, m, conv = (tensor(*s, dtype=dtype) for s in ((1, 64, 3, 3), (1, 64, 1, 1), (64, 64, 3, 3)))
        x = tensor(1, 64, 19, 37, dtype=dtype).contiguous(memory_format=torch.channels_last)
        rda_conv3x3(x, w, m, None, conv, skip=x, backend="cuda")
    for scale in (2, 3, 4):
        weight, bias = (tensor(9, 3 * scale**2, *s, dtype=torch.float32) for s in ((64, 5, 5), ()))
        conv5x5_shuffle(x.bfloat16(), weight, bias, scale=scale, backend="cuda")
torch.cuda.synchronize()
"""


@pytest.mark.sanitizer
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_vendors_checkers_find_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("there is no compute-sanitizer")
    # torch's and the runtime's own questions to the driver are answered with errors that mean nothing
    options = ["--tool", tool, "--error-exitcode", "7"] + (["--report-api-errors", "no"] if tool == "memcheck" else [])
    command = [sanitizer, *options, sys.executable, "-c", SANITIZED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    if done.returncode != 0 and "ERROR SUMMARY" not in said and "not supported" in said.lower():
        pytest.skip("compute-sanitizer does not support this GPU here")
    assert done.returncode == 0, said[-3000:]
