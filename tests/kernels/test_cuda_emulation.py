"""The emulation that runs the CUDA sources on the CPU: it catches mistakes, and no result depends on thread order."""

import importlib
import math

import pytest
import torch
from budget import RdaBudget
from calls import Call

from mrda_kernels.backends import cuda_emulated
from mrda_kernels.call import RdaCall

OPS = torch.ops.mrda_kernels
BACKEND = "cuda-emulated"

if cuda_emulated.why_not("cpu") is not None:
    pytest.skip(cuda_emulated.why_not("cpu"), allow_module_level=True)

_emulation = importlib.import_module("mrda_kernels._emulation")
Order = _emulation.Order


@pytest.fixture(autouse=True)
def faultless_again():
    yield
    _emulation.control()


def results(call):
    arguments = (*call.tensors(), *call.options)
    yield OPS.rda_conv2d(*arguments, BACKEND)
    yield from OPS.rda_conv2d_backward(call.grad_output(), *arguments, BACKEND)


def check(call):
    """Raise AssertionError for a result out of bounds, RuntimeError if the emulation stopped."""
    budget = RdaBudget(*call.tensors(), *call.options, exact_z=call.dyadic)
    expected = [budget.forward(), *budget.backward(call.grad_output())]
    for number, (bounded, actual) in enumerate(zip(expected, results(call), strict=True)):
        bounded.check(actual, f"result {number}")


CALL = Call((2, 24, 9, 40), layout="channels_last", grad_layout="channels_last", dyadic=False)


# ---- results do not depend on the order of threads -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "offset"])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("full_mask", [False, True], ids=["M=1", "M=C"])
def test_cuda_emulated_results_do_not_depend_on_the_order_of_threads(dtype, layout, kernel_size, full_mask):
    call = Call((2, 24, 9, 40), kernel_size, dtype, full_mask, layout=layout, grad_layout=layout, dyadic=False)
    _emulation.control(order=Order.forward)
    first = list(results(call))
    for order, seed in ((Order.reverse, 0), (Order.shuffled, 1), (Order.shuffled, 2)):
        _emulation.control(order=order, seed=seed)
        assert all(torch.equal(a, b) for a, b in zip(first, results(call), strict=True))


# ---- planted faults ------------------------------------------------------------------------------------------------


def fails(call, **fault):
    """Return True if a fault shows in one of several orders of threads."""
    for order in (Order.forward, Order.reverse, Order.shuffled):
        _emulation.control(order=order, **fault)
        try:
            check(call)
        except (AssertionError, RuntimeError):
            return True
    return False


def test_without_a_fault_nothing_fails():
    assert not fails(CALL)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_missing_barrier_is_caught(number):
    # A block's first barrier is not needed: no thread has to wait for another one yet.
    assert fails(CALL, skip_barrier=number)


def test_a_thread_that_skips_a_barrier_is_reported():
    _emulation.control(skip_barrier=3, skip_barrier_thread=17)
    barrier = "thread 17 of block 0 has ended while others wait for it at a barrier"
    with pytest.raises(RuntimeError, match=f"^CUDA kernel rda_conv_forward failed: {barrier}$"):
        OPS.dynamic_depthwise_conv2d(*CALL.tensors()[:2], 1.0, BACKEND)
    # with a mask, the thread reaches the next shuffle alone
    with pytest.raises(RuntimeError, match=f"{barrier}|thread 17 of block 0 waits for lanes that do not come"):
        list(results(CALL))


@pytest.mark.parametrize("number", [0, 100, 1000])
def test_a_row_that_does_not_arrive_is_caught(number):
    assert fails(CALL, drop_copy=number)


def test_after_a_fault_the_next_call_works():
    _emulation.control(skip_barrier=3, skip_barrier_thread=17)
    with pytest.raises(RuntimeError):
        list(results(CALL))
    _emulation.control()
    check(CALL)


def test_sizes_that_the_kernels_can_not_count_are_refused():
    call = RdaCall.bare(torch.zeros(()).expand(1, 1, 2**31, 1), torch.zeros(1, 1, 3, 3))
    params = _emulation.RdaConvParams(call, "float32", False)
    with pytest.raises(RuntimeError, match=r"^CUDA kernel rda_conv failed: height or width beyond 2\^31$"):
        _emulation.rda_conv_forward_cuda(
            params, output=0, output_strides=(0,) * 4, mask_logits=0, mask_logits_strides=(0,) * 4, device=0, stream=0
        )


VALUES = [float(i) for i in range(64)]
MISTAKES = {
    "lonely_barrier": "thread 5 of block 0 has ended while others wait for it at a barrier",
    "lonely_shuffle": r"thread \d+ of block 0 waits for lanes that do not come",
    "barrier_or_shuffle": r"thread \d+ of block 0 (has ended while|shuffles with a lane that takes no part)",
    "read_before": r"thread \d+ of block 0 reads or writes \d+ bytes before from",
    "write_past": r"thread 63 of block 0 reads or writes 1 bytes past the end of to",
    "shared_past": r"thread 63 of block 0 reads or writes 1 bytes past the end of shared memory",
    "unaligned": r"thread 0 of block 0 accesses 16 bytes at an unaligned address",
}


def test_a_right_kernel_is_run_as_it_is_written():
    assert list(_emulation.run_faulty("reverse", VALUES)) == VALUES[::-1]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported(name):
    with pytest.raises(RuntimeError, match=MISTAKES[name]):
        _emulation.run_faulty(name, VALUES)
    assert list(_emulation.run_faulty("reverse", VALUES)) == VALUES[::-1]


@pytest.mark.parametrize("name", ["no_barrier", "no_wait"])
def test_a_race_gives_a_wrong_result(name):
    assert any(map(math.isnan, _emulation.run_faulty(name, VALUES)))  # shared memory starts as NaN


def test_every_mistake_is_tested():
    assert set(_emulation.faulty_kernels()) == {"reverse", "no_barrier", "no_wait", *MISTAKES}


# ---- matrix instructions -------------------------------------------------------------------------------------------


def product(half=False, **options):
    """Multiply matrices of a few bits, exactly and in the emulation."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randint(-8, 9, (16, n), generator=generator) / 8 for n in (16, 8, 8))
    depth = 8 if half else 16
    actual = _emulation.product(a.tolist(), b.tolist(), c.tolist(), half=half, **options)
    return torch.tensor(actual), a[:, :depth] @ b[:depth] + c


@pytest.mark.parametrize("half", [False, True], ids=["16 x 16", "16 x 8"])
@pytest.mark.parametrize("capability", [80, 90])  # without and with stmatrix
def test_a_product_of_matrices_that_went_through_shared_memory(half, capability):
    _emulation.control(capability=capability)
    actual, expected = product(half)
    assert torch.equal(actual, expected)
    assert _emulation.shared_accesses() == (8, 0)  # 4 phases each way


def test_bank_conflicts_are_counted():
    product(conflicts=True)
    assert _emulation.shared_accesses() == (8, 8)


def test_a_matrix_instruction_without_one_of_the_lanes_is_reported():
    with pytest.raises(RuntimeError, match=r"thread \d+ of block 0 (has ended|waits for lanes that do not come)"):
        product(absent=5)


@pytest.mark.parametrize(("terms", "expected"), [([1.0, -(2.0**-25)], 1.0), ([1.0, 2.0**-23], 1 + 2**-23)])
def test_tensor_cores_cut_terms_off(terms, expected):
    a = [[*terms, *[0.0] * 14]] * 16
    b = [[1.0] * 8] * 2 + [[0.0] * 8] * 14
    assert _emulation.product(a, b, [[0.0] * 8] * 16)[0][0] == expected  # to nearest, the first were 1 - 2 ** -25
