"""The CUDA kernels for strips, K = 3 with one mask and channels in vectors: in the emulation, and on a GPU.

Other tests have few channels, or none that vectors hold; they run the kernels that serve any call.
"""

import math

import pytest
import torch
from budget import RdaBudget
from calls import Call

from benchmarks import gpu_model
from mrda_kernels import dispatch
from mrda_kernels.backends import cuda_emulated
from mrda_kernels.call import RdaCall

OPS = torch.ops.mrda_kernels
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ids = {"ids": str}

needs_emulation = pytest.mark.skipif(cuda_emulated.why_not("cpu") is not None, reason="the emulation is not built")


def strip_call(shape, dtype, **options):
    layouts = {"layout": "channels_last", "grad_layout": "channels_last"}
    return Call(shape, dtype=dtype, **{**layouts, "dyadic": False, "output_negative_slope": 0.1, **options})


def results(call, backend):
    arguments = (*call.tensors(), *call.options)
    yield OPS.rda_conv2d(*arguments, backend)
    yield from OPS.rda_conv2d_backward(call.grad_output(), *arguments, backend)


def check(call, backend):
    budget = RdaBudget(*call.tensors(), *call.options, exact_z=call.dyadic)
    expected = [budget.forward(), *budget.backward(call.grad_output())]
    for number, (bounded, actual) in enumerate(zip(expected, results(call, backend), strict=True)):
        bounded.check(actual, f"result {number}")


# Around the strips' 64, 32 and 16 columns, and 2 fewer in the backward; channels that fill a kernel's, or do not.
SHAPES = [
    (2, 64, 9, 66),
    (1, 16, 3, 131),
    (1, 32, 1, 64),
    (1, 40, 5, 29),
    (3, 64, 2, 1),
    (1, 128, 7, 34),
    (1, 72, 4, 15),
]


@pytest.mark.parametrize("dtype", DTYPES, **ids)
@pytest.mark.parametrize("shape", SHAPES, **ids)
def test_strips_stay_within_the_budget(cuda_kernels, shape, dtype):
    check(strip_call(shape, dtype), cuda_kernels)


@pytest.mark.parametrize("dtype", DTYPES, **ids)
@pytest.mark.parametrize("bias", [False, True])
def test_exact_sums_have_the_right_signs(cuda_kernels, dtype, bias):
    check(strip_call((1, 24, 6, 20), dtype, dyadic=True, bias=bias, negative_slope=0.0), cuda_kernels)


@pytest.mark.parametrize("dtype", DTYPES, **ids)
def test_views_of_larger_tensors(cuda_kernels, dtype):
    """Channels, rows and columns of larger tensors, with NaN around them, and one sample for all."""
    call = strip_call((2, 24, 5, 21), dtype)
    (input, *others), grad = call.tensors(), call.grad_output()

    def inside(values):
        b, c, h, w = values.shape
        around = torch.full((b, h + 2, w + 3, c + 16), math.nan, dtype=dtype)
        return around[:, 1:-1, 2:-1, 8:-8].permute(0, 3, 1, 2).copy_(values)

    arguments = [inside(input)[:1].expand(2, -1, -1, -1), *others, *call.options]
    budget = RdaBudget(*arguments, exact_z=False)
    budget.forward().check(OPS.rda_conv2d(*arguments, cuda_kernels), "output")
    grads = OPS.rda_conv2d_backward(inside(grad), *arguments, cuda_kernels)
    for number, (bounded, actual) in enumerate(zip(budget.backward(grad), grads, strict=True)):
        bounded.check(actual, f"gradient {number}")


@pytest.mark.parametrize("dtype", DTYPES, **ids)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_reach_only_what_depends_on_them(cuda_kernels, dtype, value):
    call = strip_call((2, 64, 6, 40), dtype)
    arguments = [*call.tensors(), *call.options]
    clean = OPS.rda_conv2d(*arguments, cuda_kernels)
    for h, w, channel in [(0, 0, 3), (2, 15, 9), (2, 16, 62), (5, 39, 31)]:  # corners, borders of a warp's pixels
        arguments[0][1, channel, h, w] = value
    output = OPS.rda_conv2d(*arguments, cuda_kernels)
    # The kernels for any call; the reference's mask is 0 sooner, and 0 times infinity is NaN.
    expected = OPS.rda_conv2d(arguments[0].contiguous(), *arguments[1:], cuda_kernels)
    assert not expected.isfinite().all()
    assert torch.equal(output.isnan(), expected.isnan())
    infinite = expected.isinf()
    assert torch.equal(output[infinite], expected[infinite])
    torch.testing.assert_close(output, expected, equal_nan=True)
    assert torch.equal(output[0], clean[0])  # the other sample

    grads = OPS.rda_conv2d_backward(call.grad_output(), *arguments, cuda_kernels)
    wanted = OPS.rda_conv2d_backward(call.grad_output(), arguments[0].contiguous(), *arguments[1:], cuda_kernels)
    for actual, expected in zip(grads[:2], wanted[:2], strict=True):
        assert torch.equal(actual.isfinite(), expected.isfinite())


def test_a_weight_that_is_not_finite_stays_in_its_channel(cuda_kernels):
    call = strip_call((1, 64, 4, 20), torch.bfloat16)
    arguments = [*call.tensors(), *call.options]
    arguments[1][0, 5, 1, 1] = math.inf
    output = OPS.rda_conv2d(*arguments, cuda_kernels)
    others = [channel for channel in range(64) if channel != 5]
    assert output[:, others].isfinite().all()
    assert not output[:, 5].isfinite().any()


# ---- in the emulation only ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, **ids)
@pytest.mark.parametrize("channels", [32, 64, 128])
def test_no_access_to_shared_memory_has_bank_conflicts(emulation, dtype, channels):
    call = strip_call((1, channels, 5, 70), dtype)
    emulation.control()
    list(results(call, dispatch.EMULATED))
    phases, conflicts = emulation.shared_accesses()
    assert phases > 1000
    assert conflicts == 0


@pytest.mark.parametrize(
    "kernel",
    [kernel for kernel in gpu_model.KERNELS if kernel.name in {"forward", "backward"}],
    ids=lambda kernel: f"{kernel.name}-{kernel.dtype}",
)
def test_the_model_knows_the_shared_memory(emulation, kernel):
    call = strip_call((1, kernel.shape[1], 3, 5), getattr(torch, kernel.dtype))
    emulation.control()
    if kernel.name == "forward":
        OPS.rda_conv2d(*call.tensors(), *call.options, dispatch.EMULATED)
    else:
        OPS.rda_conv2d_backward(call.grad_output(), *call.tensors(), *call.options, dispatch.EMULATED)
    assert emulation.most_shared_bytes() == kernel.shared_bytes


@pytest.mark.parametrize("dtype", DTYPES, **ids)
def test_results_depend_on_neither_order_nor_capability(emulation, dtype):
    call = strip_call((2, 72, 6, 40), dtype)
    emulation.control(order=emulation.Order.forward)
    first = list(results(call, dispatch.EMULATED))
    for order, capability in ((emulation.Order.reverse, 80), (emulation.Order.shuffled, 90)):
        emulation.control(order=order, capability=capability)  # without stmatrix, and with it
        assert all(torch.equal(a, b) for a, b in zip(first, results(call, dispatch.EMULATED), strict=True))


@pytest.mark.parametrize("multiprocessors", [1, 3, 132])
def test_an_image_is_split_by_the_number_of_multiprocessors(emulation, multiprocessors):
    call = strip_call((1, 32, 41, 70), torch.float32)
    first = OPS.rda_conv2d(*call.tensors(), *call.options, dispatch.EMULATED)
    emulation.control(multiprocessors=multiprocessors)
    assert torch.equal(first, OPS.rda_conv2d(*call.tensors(), *call.options, dispatch.EMULATED))
    check(call, dispatch.EMULATED)


def test_tiles_are_as_many_as_a_gpu_computes_at_a_time(emulation):
    described = strip_call((1, 64, 400, 70), torch.float32)
    call = RdaCall(*described.tensors(), *described.options)
    params = emulation.RdaConvParams(call, call.dtype_name, call.channels_last)

    def bytes_of_sums(**gpu):  # which every tile has
        emulation.control(**gpu)
        return emulation.rda_conv_backward_workspace_cuda(params, device=0)

    most = bytes_of_sums(multiprocessors=132, capability=90)
    assert bytes_of_sums(multiprocessors=66, capability=90) < most
    assert bytes_of_sums(multiprocessors=132, capability=80) < most  # it holds one block where sm_90 holds two


def test_other_layouts_are_served_all_the_same(emulation):
    call = strip_call((1, 32, 5, 24), torch.bfloat16, layout="nchw", grad_layout="offset")
    emulation.control()
    check(call, dispatch.EMULATED)
    assert emulation.shared_accesses() == (0, 0)  # by the kernels for any call


# What is not finite, the kernels in half precision compute again: so let what is missing be large numbers.
FINITE = 0x7B


def fails(emulation, call, **fault):
    """Return True if a fault shows in one of several orders of threads."""
    for order in (emulation.Order.forward, emulation.Order.reverse):
        emulation.control(order=order, fill=FINITE, **fault)
        try:
            check(call, dispatch.EMULATED)
        except (AssertionError, RuntimeError):
            return True
    return False


FAULTS = [
    *({"skip_barrier": number} for number in range(1, 7)),
    *({"drop_copy": number} for number in (0, 300, 700)),
    *({"shift_copy": number} for number in (300, 700)),  # a pixel's halo off by a vector
    *({"wrong_lane": number} for number in (0, 20)),
    {"skip_block": 1},  # outputs that nobody writes
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], **ids)
@pytest.mark.parametrize("fault", FAULTS, **ids)
def test_a_planted_fault_is_caught(emulation, dtype, fault):
    assert fails(emulation, strip_call((2, 64, 6, 40), dtype), **fault)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], **ids)
def test_without_a_fault_nothing_fails(emulation, dtype):
    assert not fails(emulation, strip_call((2, 64, 6, 40), dtype))
