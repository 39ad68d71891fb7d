"""conv5x5_shuffle: what it is, on every backend, and the kernel that serves half precision on GPUs."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from budget import Arithmetic, Bounded
from torch import Tensor

from mrda_kernels import conv5x5_shuffle, dispatch, pack_conv5x5
from mrda_kernels.conv5x5_shuffle import PackedConv5x5

OP = torch.ops.mrda_kernels.conv5x5_shuffle
# The most that a weight may differ from its two terms: of its size, and the least that float16 can tell.
SPLIT = {torch.bfloat16: (2.0**-17, 0.0), torch.float16: (2.0**-22, 2.0**-25)}
HALF_DTYPES = [torch.bfloat16, torch.float16]


def draw(*shape: int, stream: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(stream)
    return torch.randn(shape, generator=generator, device="cpu").to(torch.get_default_device())


def arguments(batch=1, size=(5, 6), scale=4, channels=64, dtype=torch.bfloat16):
    """The input, the weights of every kind, the biases and the shift."""
    outputs, fan = 3 * scale**2, 25 * channels
    input = draw(batch, channels, *size, stream=1).to(dtype, memory_format=torch.channels_last)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    weight = draw(9, outputs, channels, 5, 5, stream=2) / math.sqrt(fan)
    return input, weight.to(sums), draw(9, outputs, stream=3).to(sums), draw(3, stream=4).to(sums)


def by_pixel(input: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, scale: int) -> Tensor:
    """The definition: every pixel with the weights of its kind."""
    height, width = input.shape[2:]
    windows = F.unfold(input, 5, padding=2).unflatten(2, (height, width))
    rows = [0, *[1] * (height - 2), 2]
    columns = [0, *[1] * (width - 2), 2]
    kinds = torch.tensor([[3 * row + column for column in columns] for row in rows])
    features = torch.einsum("bkhw,hwnk->bnhw", windows, weight.flatten(2)[kinds]) + bias[kinds].permute(2, 0, 1)
    image = F.pixel_shuffle(features, scale)
    return image if shift is None else image + shift[:, None, None]


def budget(input, weight, bias, shift, scale) -> Bounded:
    """Tensor cores' sums of two products for each weight, which is split in two terms, and two additions."""
    tensors = [None if t is None else t.double() for t in (input, weight, bias, shift)]
    rounding = Arithmetic(input.dtype).products(2 * 25 * input.shape[1])
    terms = by_pixel(*(None if t is None else t.abs() for t in tensors), scale)
    relative, absolute = SPLIT[input.dtype]
    least = by_pixel(tensors[0].abs(), torch.full_like(tensors[1], absolute), torch.zeros_like(tensors[2]), None, scale)
    return Bounded(by_pixel(*tensors, scale), (rounding + relative + 3 * 2.0**-24) * terms + least)


def check(cuda_kernels, *tensors, scale=4) -> None:
    with torch.no_grad():
        output = conv5x5_shuffle(*tensors, scale=scale, backend=cuda_kernels)
    assert output.dtype == torch.float32
    assert output.is_contiguous()
    input, weight, *others = tensors
    weight = weight.weight if isinstance(weight, PackedConv5x5) else weight
    budget(input, weight, *others, scale).check(output, "output")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_composed_it_is_what_it_says(scale, dtype):
    tensors = arguments(2, (6, 4), scale, channels=5, dtype=dtype)
    output = conv5x5_shuffle(*tensors, scale=scale)
    assert output.dtype == tensors[1].dtype
    assert output.is_contiguous()
    exact = by_pixel(*(t.double() for t in tensors), scale)
    torch.testing.assert_close(output.double(), exact, rtol=0, atol=1e-13 if dtype == torch.float64 else 1e-5)


# Sizes without inner pixels; a tile and parts of others; a whole run and a part of another, both ways.
@pytest.mark.parametrize(
    ("scale", "size"),
    [(4, (2, 2)), (2, (3, 2)), (3, (2, 4)), (4, (4, 3)), (2, (19, 20)), (3, (5, 68)), (4, (69, 4))],
    ids=str,
)
@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_the_kernel_stays_within_the_budget(cuda_kernels, dtype, scale, size):
    check(cuda_kernels, *arguments(size=size, scale=scale, dtype=dtype), scale=scale)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 9), (torch.float16, 12)], ids=str)
def test_both_terms_of_the_weights_count(cuda_kernels, dtype, digits):
    input, weight, bias, shift = arguments(size=(3, 3), dtype=dtype)
    weight = torch.full_like(weight, (1 + 2.0**-digits) / 1024)  # the first term is 1/1024 exactly
    tensors = input.abs(), weight, bias, shift
    check(cuda_kernels, *tensors)
    with torch.no_grad():
        output = conv5x5_shuffle(*tensors, scale=4, backend=cuda_kernels)
    without = conv5x5_shuffle(tensors[0], weight.to(dtype).float(), bias, shift, scale=4)
    exact = by_pixel(*(t.double() for t in tensors), 4)
    assert (output - exact).abs().max() < (without - exact).abs().max() / 4


def test_a_batch_without_a_shift_from_packed_weights_at_an_odd_address(cuda_kernels):
    input, weight, bias, _ = arguments(2, (3, 5))
    moved = torch.empty(input.numel() + 1, dtype=input.dtype)[1:].view(2, 3, 5, 64).permute(0, 3, 1, 2).copy_(input)
    packed = PackedConv5x5(weight, dispatch.load(cuda_kernels).pack_conv5x5(weight, input.dtype))
    with torch.no_grad():
        output = conv5x5_shuffle(moved, packed, bias, scale=4, backend=cuda_kernels)
    budget(input, weight, bias, None, 4).check(output, "output")
    # weights that were packed for inputs of another dtype are packed again
    check(cuda_kernels, input.half(), packed, bias, None)


def test_weights_that_were_packed_for_another_call_are_refused(cuda_kernels):
    input, weight, bias, shift = arguments(size=(3, 3), scale=2)
    packed = dispatch.load(cuda_kernels).pack_conv5x5(arguments(scale=4)[1], input.dtype)
    with torch.no_grad(), pytest.raises(ValueError, match="weight has another shape than the weights that were packed"):
        conv5x5_shuffle(input, PackedConv5x5(weight, packed), bias, shift, scale=2, backend=cuda_kernels)


@pytest.mark.parametrize("other", [{"dtype": torch.float32}, {"channels": 32}, {"scale": 1}], ids=str)
def test_other_calls_are_composed(cuda_kernels, other):
    tensors = arguments(**other)
    scale = other.get("scale", 4)
    with torch.no_grad():
        output = conv5x5_shuffle(*tensors, scale=scale, backend=cuda_kernels)
    torch.testing.assert_close(output, conv5x5_shuffle(*tensors, scale=scale, backend="reference"))


@pytest.mark.parametrize(("channels", "scale"), [(64, 1), (64, 5), (32, 4)])
def test_weights_that_no_kernel_takes_are_not_packed(cuda_kernels, channels, scale):
    weight = arguments(channels=channels, scale=scale)[1]
    assert dispatch.load(cuda_kernels).pack_conv5x5(weight, torch.bfloat16) is None


def test_float32_has_no_kernel_to_pack_for(cuda_kernels):
    assert dispatch.load(cuda_kernels).pack_conv5x5(arguments()[1], torch.float32) is None


def test_a_network_s_packed_weights_are_those_of_the_device():
    weight = arguments()[1]
    assert pack_conv5x5(weight).packed is None  # on a CPU, where no kernel takes them


def test_the_kernel_has_no_bank_conflicts_and_no_result_depends_on_the_order_of_threads(emulation):
    tensors, results = arguments(size=(18, 4)), []
    for order in (emulation.Order.forward, emulation.Order.reverse, emulation.Order.shuffled):
        emulation.control(order=order)
        with torch.no_grad():
            results.append(conv5x5_shuffle(*tensors, scale=4, backend="cuda-emulated"))
        phases, conflicts = emulation.shared_accesses()
        assert phases > 1000
        assert conflicts == 0
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


# ---- planted faults ------------------------------------------------------------------------------------------------


def fails(emulation, tensors, **fault):
    for order in (emulation.Order.shuffled, emulation.Order.forward):
        emulation.control(order=order, **fault)
        with contextlib.suppress(AssertionError, RuntimeError):
            check("cuda-emulated", *tensors)
            continue
        return True
    return False


@pytest.mark.parametrize("number", [0, 1, 2, 12, 24])
def test_a_missing_barrier_is_caught(emulation, number):
    assert fails(emulation, arguments(size=(5, 3)), skip_barrier=number)


@pytest.mark.parametrize("number", [300, 600])
def test_a_copy_that_does_not_arrive_is_caught(emulation, number):
    assert fails(emulation, arguments(size=(5, 3)), drop_copy=number)


# What lies 16 bytes further on, in place of a pixel's or a weight's channels; a lane that exchanges nothing; a corner
# that nobody writes.
FAULTS = [{"shift_copy": 602}, {"shift_copy": 603}, {"wrong_lane": 0}, {"skip_block": 3}]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_of_the_kernel_is_caught(emulation, fault):
    assert fails(emulation, arguments(size=(18, 3)), **fault)


def wrong(output: Tensor, fault: str, tensors) -> Tensor:
    """The result of a kernel with a fault, made by hand."""
    input, weight, *others = tensors
    output = output.clone()
    if fault == "halo":  # the second tile's input is off by one
        output[..., 68:] = conv5x5_shuffle(input.roll(1, 3), weight, *others, scale=4)[..., 68:]
    elif fault == "ring":  # all pixels have the inner weights
        output = conv5x5_shuffle(input, weight[4:5].expand_as(weight), *others, scale=4)
    elif fault == "lane":  # lanes side by side have changed their outputs
        output = output.unflatten(3, (-1, 2, 2)).flip(4).flatten(3)
    elif fault == "unwritten":
        output[0, 2, 8:12, 12:16] = math.nan
    return output


@pytest.mark.parametrize("fault", ["halo", "ring", "lane", "unwritten"])
def test_the_budget_catches(fault):
    tensors = arguments(size=(5, 19))
    bounds, output = budget(*tensors, 4), conv5x5_shuffle(*tensors, scale=4)
    bounds.check(output, "output")
    with pytest.raises(AssertionError, match="times the error bound"):
        bounds.check(wrong(output, fault, tensors), "output")


# ---- the operator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wants_gradient", [False, True], ids=["inference", "gradient"])
def test_opcheck(wants_gradient):
    input, weight, bias, shift = arguments(2, (3, 4), 2, channels=3, dtype=torch.float32)
    input.requires_grad_(wants_gradient)
    torch.library.opcheck(OP.default, (input, weight, None, bias, shift, 2, None))


def test_gradients_transforms_and_autocast():
    tensors = arguments(1, (2, 3), 2, channels=2, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *t: conv5x5_shuffle(*t, scale=2), inputs, fast_mode=True)
    batch = torch.stack([tensors[0].detach()] * 2)
    outputs = torch.func.vmap(lambda x: conv5x5_shuffle(x, *tensors[1:], scale=2))(batch)
    torch.testing.assert_close(outputs[1], conv5x5_shuffle(*tensors, scale=2))
    single = arguments(1, (2, 3), 2, channels=2, dtype=torch.float32)
    expected = conv5x5_shuffle(*single, scale=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv5x5_shuffle(*single, scale=2), expected)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"input": torch.zeros(1, 2, 1, 3)}, ValueError, "its height and width must be at least 2"),
        ({"input": torch.zeros(1, 3, 2, 3)}, ValueError, r"weight has shape .*, but must be \(9, 12, 3, 5, 5\)"),
        ({"input": torch.zeros(1, 2, 2, 3).double()}, TypeError, "weight has dtype torch.float32, but must be torch.f"),
        ({"bias": torch.zeros(9, 3)}, ValueError, r"bias has shape \(9, 3\), but must be \(9, 12\)"),
        ({"shift": torch.zeros(1)}, ValueError, r"shift has shape \(1,\), but must be \(3,\)"),
        ({"scale": 0}, ValueError, "scale is 0, but must be at least 1"),
        ({"backend": "cudnn"}, ValueError, "backend is 'cudnn', but must be None or one of"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(change, error, match):
    tensors = arguments(1, (2, 3), 2, channels=2, dtype=torch.float32)
    call = dict(zip(("input", "weight", "bias", "shift"), tensors, strict=True)) | {"scale": 2} | change
    with pytest.raises(error, match=match):
        conv5x5_shuffle(**call)
