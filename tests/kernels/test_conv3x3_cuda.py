"""The CUDA kernel of half an RDA block: on a GPU, and in the emulation with faults planted."""

import contextlib
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from budget import RdaBudget, conv3x3_forward
from calls import LAYOUTS, Call
from test_conv3x3 import Half, run

from mrda_kernels import conv3x3, dispatch, rda_conv3x3
from mrda_kernels.backends import cpu
from mrda_kernels.call import RdaCall

HALF_DTYPES = [torch.bfloat16, torch.float16]


def half(shape=(1, 64, 4, 6), dtype=torch.bfloat16, **options):
    before = {"layout": "channels_last", "dyadic": False, "output_negative_slope": 0.1}
    before |= {key: options.pop(key) for key in list(options) if key in Call.__dataclass_fields__ and key != "bias"}
    before["bias"] = options.pop("mask_bias", True)
    return Half(Call(shape, dtype=dtype, **before), **{"outputs": 64, "skip": None, "packed": False} | options)


def budget(call):
    features = RdaBudget(*call.steered, exact_z=False).forward()
    return conv3x3_forward(features, call, winograd=False, tensor_cores=True)


def check(description, backend):
    call = description.call()
    assert dispatch.load(backend).serves_conv3x3(call)
    output = run(call, backend)
    assert output.is_contiguous(memory_format=torch.channels_last)
    budget(call).check(output, "output")


def tile(emulation, shape, **gpu):
    emulation.control(**gpu)
    call = half(shape).call().steered
    params = emulation.RdaConvParams(call, call.dtype_name, call.channels_last)
    return emulation.rda_conv3x3_plan_cuda(params, device=0)


# ---- what it computes ----------------------------------------------------------------------------------------------

LARGE, MEDIUM, SMALL = (46, 10), (30, 12), (14, 12)
TILES = [(90, (1, 64, 19, 90), LARGE), (80, (1, 64, 23, 59), MEDIUM), (86, (2, 64, 13, 15), SMALL)]


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize(("capability", "shape", "size"), TILES, ids=["large", "medium", "small"])
def test_tiles_with_borders_stay_within_the_budget_and_have_no_bank_conflicts(
    emulation, dtype, capability, shape, size
):
    *chosen, _ = tile(emulation, shape, capability=capability, multiprocessors=1)
    assert tuple(chosen) == size
    skip = "channels_last" if dtype == torch.bfloat16 else None
    check(half(shape, dtype, skip=skip, slope=0.1), "cuda-emulated")
    phases, conflicts = emulation.shared_accesses()
    assert phases > 1000
    assert conflicts == 0


@pytest.mark.parametrize("shape", [(1, 64, 1, 2), (2, 64, 2, 1), (1, 64, 13, 3), (3, 64, 2, 15)], ids=str)
def test_small_images(cuda_kernels, shape):
    check(half(shape, skip="channels_last"), cuda_kernels)


@pytest.mark.parametrize(
    "options",
    [
        {"mask_bias": False, "bias": False},
        {"skip": "nchw", "slope": None},
        {"skip": "step2", "slope": 0.0, "negative_slope": 1.0},
        {"skip": "channels_last_offset", "output_negative_slope": None},
        {"layout": "channels_last_offset", "packed": True},
        {"mask_gain": 8.0, "negative_slope": 0.0},
    ],
    ids=str,
)
def test_every_option(cuda_kernels, options):
    check(half(**options), cuda_kernels)


@pytest.mark.parametrize(
    "other",
    [
        {"dtype": torch.float32},
        {"layout": "nchw"},
        {"layout": "step2"},
        {"kernel_size": 5},
        {"full_mask": True},
        {"outputs": 32},
        {"shape": (1, 32, 4, 6)},
        {"steered": False},
    ],
    ids=str,
)
def test_other_half_blocks_are_composed(cuda_kernels, other):
    call = half(**other).call()
    assert not dispatch.load(cuda_kernels).serves_conv3x3(call)
    assert run(call, cuda_kernels).isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_reach_the_pixels_of_the_formula(cuda_kernels, value):
    call = half((2, 64, 9, 11)).call()
    clean = run(call, cuda_kernels)
    call.input[1, 3, 4, 5] = value
    output = run(call, cuda_kernels)
    reached = torch.zeros(9, 11, dtype=torch.bool)
    reached[2:7, 3:8] = True
    assert torch.equal(output[1].isfinite().all(dim=0), ~reached)
    assert torch.equal(output[0], clean[0])
    assert torch.equal(output[1][:, ~reached], clean[1][:, ~reached])


def test_the_fastest_tile_depends_on_the_image_and_the_gpu(emulation):
    """The published trunk at LR 180x320 is one wave of the largest tile on an H100 or H200."""
    *size, cycles = tile(emulation, (1, 64, 180, 320), capability=90, multiprocessors=132)
    assert tuple(size) == LARGE
    assert tile(emulation, (2, 64, 180, 320), capability=90, multiprocessors=132)[2] >= 1.5 * cycles
    assert tuple(tile(emulation, (1, 64, 180, 320), capability=80, multiprocessors=108)[:2]) == MEDIUM
    assert tuple(tile(emulation, (1, 64, 180, 320), capability=86, multiprocessors=82)[:2]) == SMALL
    assert tuple(tile(emulation, (1, 64, 24, 24), capability=90, multiprocessors=132)[:2]) == SMALL


def test_no_result_depends_on_the_order_of_threads(emulation):
    call = half((1, 64, 5, 17), skip="channels_last").call()
    order = emulation.Order
    results = []
    for kind, seed in ((order.forward, 0), (order.reverse, 0), (order.shuffled, 1)):
        emulation.control(order=kind, seed=seed)
        results.append(run(call, "cuda-emulated"))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


# ---- training ------------------------------------------------------------------------------------------------------


def check_features(description, backend):
    """The kernel writes the RDA convolution's result on every pixel, and computes what it does without it."""
    call = description.call()
    output, features = dispatch.load(backend).conv3x3_with_features(call)
    budget(call).check(output, "output")
    assert features.is_contiguous(memory_format=torch.channels_last)
    RdaBudget(*call.steered, exact_z=False).forward().check(features, "features")


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize(("capability", "shape", "size"), TILES, ids=["large", "medium", "small"])
def test_the_rda_convolutions_result_is_kept(emulation, dtype, capability, shape, size):
    assert tuple(tile(emulation, shape, capability=capability, multiprocessors=1)[:2]) == size
    check_features(half(shape, dtype, skip="channels_last"), "cuda-emulated")
    assert emulation.shared_accesses()[1] == 0


def tensors_of(call):
    """Everything that may have a gradient, in the order of rda_conv3x3's arguments."""
    before = (call.input, None, None, None) if call.steered is None else call.steered[:4]
    return *before, call.conv_weight, None, call.conv_bias, call.skip


def trained(call, backend, wanted=lambda number: True, create_graph=False):
    """The result of an eager call, and its gradients with respect to its tensors that are `wanted`."""
    own = enumerate(tensors_of(call))
    tensors = [None if t is None else t.detach().clone().requires_grad_(wanted(i)) for i, t in own]
    options = {"skip": tensors[7], "output_negative_slope": call.output_negative_slope, "backend": backend}
    if call.steered is None:
        output = conv3x3(tensors[0], tensors[4], tensors[6], **options)
    else:
        options["negative_slope"] = call.steered.negative_slope
        options["inner_negative_slope"] = call.steered.output_negative_slope
        output = rda_conv3x3(*tensors[:5], tensors[6], **options)
    leaves = [t for t in tensors if t is not None and t.requires_grad]
    grad = torch.linspace(-1, 1, output.numel(), dtype=torch.float64, device=output.device)
    grad = grad.view_as(output).to(output.dtype)
    return output, torch.autograd.grad(output, leaves, grad, create_graph=create_graph), leaves


class Keeping:
    """Lets a backend keep features, and train, by torch's operators, in any dtype, and counts how often it did."""

    def __init__(self, monkeypatch, name):
        self.calls, self.name = 0, name
        monkeypatch.setattr(dispatch.load(name), "serves_conv3x3", lambda call, *, recorded=False: True)
        monkeypatch.setattr(dispatch.load(name), "conv3x3_with_features", self.keep, raising=False)
        monkeypatch.delattr(dispatch.load(name), "conv3x3_gradients", raising=False)

    def keep(self, call):
        self.calls += 1
        features = call.input
        if call.steered is not None:
            features = torch.ops.mrda_kernels.rda_conv2d(*call.steered, self.name)
        output = F.conv2d(features, call.conv_weight, call.conv_bias, padding=1)
        output = output if call.skip is None else output + call.skip
        slope = call.output_negative_slope
        return output if slope is None else F.leaky_relu(output, slope), features


OPTIONS = [
    {"skip": "nchw"},
    {"slope": None, "mask_bias": False, "bias": False},
    {"slope": 0.0, "skip": "nchw", "output_negative_slope": None},
    {"skip": "nchw", "steered": False},
]


@pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("some", [lambda i: True, lambda i: i == 4, lambda i: i == 0, lambda i: i in (6, 7, 1)])
def test_gradients_are_those_of_the_composition(monkeypatch, options, some):
    call = half((2, 5, 4, 6), torch.float64, outputs=5, **options).call()
    if not any(some(i) for i, t in enumerate(tensors_of(call)) if t is not None):
        pytest.skip("it has no such tensor")
    monkeypatch.delattr(dispatch.load("cpu"), "conv3x3_with_features", raising=False)
    expected = trained(call, "cpu", some)
    second = trained(call, "cpu", some, create_graph=True)
    keeping = Keeping(monkeypatch, "cpu")
    found = trained(call, "cpu", some)
    assert keeping.calls == 1
    assert torch.equal(found[0], expected[0])
    assert len(found[1]) == len(expected[1])
    for actual, wanted in zip(found[1], expected[1], strict=True):
        assert torch.equal(actual, wanted)
    again = trained(call, "cpu", some, create_graph=True)
    assert keeping.calls == 2
    pair = [
        torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves, allow_unused=True)
        for _, grads, leaves in (again, second)
    ]
    for actual, wanted in zip(*pair, strict=True):
        assert (actual is None) == (wanted is None)
        if actual is not None:
            torch.testing.assert_close(actual, wanted)


@pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")
def test_a_slope_below_0_is_left_to_the_composition(monkeypatch):
    keeping = Keeping(monkeypatch, "cpu")
    trained(half((1, 3, 4, 5), torch.float64, outputs=3, slope=-0.5).call(), "cpu")
    assert keeping.calls == 0


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_training_on_the_kernel(cuda_kernels, monkeypatch, dtype):
    """Gradients are those of the composition but for the last places of what was kept."""
    call = half((1, 64, 5, 16), dtype, skip="channels_last").call()
    torch.set_default_device(None)  # a mode, under which calls take the way of traced programs
    kernels = dispatch.load(cuda_kernels)
    calls, keep = [], kernels.conv3x3_with_features
    monkeypatch.setattr(kernels, "conv3x3_with_features", lambda call: calls.append(call) or keep(call))
    output, grads, _ = trained(call, cuda_kernels)
    assert len(calls) == 1
    assert torch.equal(output, run(call, cuda_kernels))
    monkeypatch.setattr(kernels, "serves_conv3x3", lambda call, *, recorded=False: False)
    _, expected, _ = trained(call, cuda_kernels)
    # a place of what was kept, which may be on the other side of a LeakyReLU in few places
    tolerance = 4 * torch.finfo(dtype).eps
    names = ("input", "weight", "mask_weight", "mask_bias", "conv_weight", "conv_bias", "skip")
    for name, actual, wanted in zip(names, grads, expected, strict=True):
        error = (actual.double() - wanted.double()).norm() / wanted.double().norm()
        assert error < tolerance, f"{name} {error}"


# ---- planted faults ------------------------------------------------------------------------------------------------


def fails(emulation, description, checked=check, **fault):
    for order in (emulation.Order.shuffled, emulation.Order.forward, emulation.Order.reverse):
        emulation.control(order=order, **fault)
        with contextlib.suppress(AssertionError, RuntimeError):
            checked(description, "cuda-emulated")
            continue
        return True
    return False


@pytest.mark.parametrize("number", range(10))
def test_a_missing_barrier_is_caught(emulation, number):
    assert fails(emulation, half(skip="channels_last"), skip_barrier=number)


# Barrier 1 is before the RDA convolution's result is written.
@pytest.mark.parametrize("fault", [{"skip_barrier": 1}, {"skip_block": 1}, {"shift_copy": 800}], ids=str)
def test_a_fault_of_what_is_kept_is_caught(emulation, fault):
    assert fails(emulation, half((2, 64, 12, 14)), check_features, **fault)


# The first copies are those of the input, then come the weights of the first tap, then each of the rest.
@pytest.mark.parametrize("number", [800, 18 * 16 * 8 + 5, 18 * 16 * 8 + 512 + 700])
def test_a_copy_that_does_not_arrive_is_caught(emulation, number):
    assert fails(emulation, half((1, 64, 12, 14), skip="channels_last"), drop_copy=number)


# A pixel of the input, of the second tap's weights and of the skip from 16 bytes further on; a tile that nobody writes.
@pytest.mark.parametrize(
    "fault",
    [*({"shift_copy": number} for number in (800, 18 * 16 * 8 + 512 + 5, 18 * 16 * 8 + 1024 + 5)), {"skip_block": 1}],
)
def test_a_fault_of_the_kernel_is_caught(emulation, fault):
    assert fails(emulation, half((2, 64, 12, 14), skip="channels_last"), **fault)


def wrong(call, fault):
    """The result of a kernel with a fault, computed by hand."""
    input, weight, mask_weight, mask_bias, *slopes = call.steered
    output = run(call, "reference")
    if fault == "halo":  # of the second tile of a row, off by one
        moved = call._replace(steered=RdaCall(input.roll(1, 3), *call.steered[1:]))
        output[..., 14:] = run(moved, "reference")[..., 14:]
    elif fault == "padding":  # the RDA convolution's result goes on outside of the image
        padded = RdaCall(F.pad(input, (1, 1, 1, 1)), weight, mask_weight, mask_bias, *slopes)
        features = torch.ops.mrda_kernels.rda_conv2d(*padded, "reference").float()
        features = F.conv2d(features, call.conv_weight.float(), call.conv_bias.float())
        output = F.leaky_relu(features, call.output_negative_slope).to(output.dtype)
    elif fault == "lane":  # neighbouring lanes have changed their channels
        pairs = output.unflatten(1, (-1, 2, 2))
        output = pairs.flip(2).flatten(1, 3)
    elif fault == "unwritten":
        output[0, 8:16, 2, 15] = math.nan
    return output


@pytest.mark.parametrize("fault", ["halo", "padding", "lane", "unwritten"])
def test_the_budget_catches(fault):
    call = half((1, 64, 4, 17)).call()
    bounds = budget(call)
    bounds.check(wrong(call, None), "output")
    with pytest.raises(AssertionError, match="times the error bound"):
        bounds.check(wrong(call, fault), "output")


def test_packed_weights_of_the_network_need_no_copy():
    """Prepared networks keep them as the kernel takes them, so that no call converts any."""
    call = dataclasses.replace(half(), packed=True).call()
    weight = call.conv_weight.contiguous(memory_format=torch.channels_last)
    assert weight.contiguous(memory_format=torch.channels_last) is weight
    assert LAYOUTS["channels_last"](weight).data_ptr() == weight.data_ptr()
