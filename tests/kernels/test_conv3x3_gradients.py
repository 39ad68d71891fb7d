"""The gradients of the static 3x3 convolution by the kernels of the "cpu" backend, within the error budget."""

import math
from dataclasses import dataclass

import pytest
import torch
from budget import (
    INPUT_TRANSFORM,
    OUTPUT_TRANSFORM,
    WEIGHT_TRANSFORM,
    conv3x3_backward,
    direct_weight_gradient,
    winograd_weight_gradient,
)
from calls import LAYOUTS, Call
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_conv3x3 import Half, shapes
from torch import Tensor

from mrda_kernels import conv3x3, rda_conv3x3
from mrda_kernels.backends import cpu
from mrda_kernels.call import DTYPES
from mrda_kernels.conv3x3_call import conv3x3_gradients as direct_gradients

DTYPES_SERVED = [torch.float32, torch.float64]
ALL = (True, True, True)


@dataclass(frozen=True)
class Step:
    """A description of the arguments of ``conv3x3_gradients``; it makes the same tensors each time."""

    before: Call
    outputs: int = 16

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the result, the features, and the weights."""
        batch, channels, height, width = self.before.shape
        grad = LAYOUTS[self.before.grad_layout](self.before._values((batch, self.outputs, height, width), 4, 1.0))
        weight = self.before._values((self.outputs, channels, 3, 3), 5, 1 / (3 * math.sqrt(channels)))
        return grad, self.before.tensors()[0], weight


def check(step: Step) -> None:
    grad, features, weight = step.tensors()
    found = cpu.conv3x3_gradients(grad, features, weight, ALL)
    bounds = conv3x3_backward(grad, features, weight)
    for name, bound, gradient in zip(("features", "weight", "bias"), bounds, found, strict=True):
        assert gradient.dtype == features.dtype
        bound.check(gradient, name)
    bounds[1].check(cpu._conv3x3_weight_gradient(grad, features), "weight, from any strides")


steps = st.builds(
    Step,
    before=st.builds(
        Call,
        shape=shapes,
        dtype=st.sampled_from(DTYPES_SERVED),
        layout=st.sampled_from(list(LAYOUTS)),
        grad_layout=st.sampled_from(list(LAYOUTS)),
        dyadic=st.booleans(),
        seed=st.integers(0, 2**16),
    ),
    outputs=st.integers(1, 35),
)


@pytest.fixture
def kernels(backend):
    """The "cpu" backend, with each instruction set."""
    if backend != "cpu":
        pytest.skip("it has no kernels for these gradients")


@pytest.mark.usefixtures("kernels")
def test_any_gradient_stays_within_the_budget():
    @settings(max_examples=40)
    @given(steps)
    @example(Step(Call((1, 1, 1, 1)), outputs=1))
    @example(Step(Call((2, 17, 4, 8), layout="channels_last", grad_layout="expanded", dyadic=False), outputs=33))
    @example(Step(Call((1, 70, 41, 90), layout="channels_last", grad_layout="channels_last", dyadic=False), outputs=64))
    @example(Step(Call((3, 9, 43, 61), dtype=torch.float64, layout="channels_last", dyadic=False), outputs=20))
    def property_(step: Step) -> None:
        check(step)

    property_()


def test_the_transforms_of_the_budget_are_the_gradient():
    features, grad = torch.randn(2, 5, 9, 14, dtype=torch.float64), torch.randn(2, 3, 9, 14, dtype=torch.float64)
    weight = torch.zeros(3, 5, 3, 3, dtype=torch.float64)
    expected = direct_gradients(grad, features, weight, (False, True, False))[1]
    for actual in (winograd_weight_gradient(features, grad), direct_weight_gradient(features, grad)):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)


def scaled(matrix: Tensor, row: int, column: int) -> Tensor:
    """A transform with one wrong constant."""
    wrong = matrix.clone()
    wrong[row, column] *= 1.01
    return wrong


def test_the_budget_catches_wrong_constants_and_windows_and_weights_that_are_not_rotated():
    grad, features, weight = Step(Call((2, 16, 18, 20), dyadic=False)).tensors()
    of_features, of_weight, _ = conv3x3_backward(grad, features, weight)
    g, x = grad.double(), features.double()
    of_weight.check(winograd_weight_gradient(x, g).float(), "weight")
    cut = g.clone()
    cut[:, :, 3] = 0  # the last row of the first windows
    for wrong in (
        winograd_weight_gradient(x, g, b=scaled(INPUT_TRANSFORM, 1, 3)),
        winograd_weight_gradient(x, g, g=scaled(WEIGHT_TRANSFORM, 3, 1)),
        winograd_weight_gradient(x, g, a=scaled(OUTPUT_TRANSFORM, 3, 2)),
        winograd_weight_gradient(x.roll(1, 3), g),
        winograd_weight_gradient(x, cut),
        winograd_weight_gradient(x[:1], g[:1]),
    ):
        with pytest.raises(AssertionError, match="times the error bound"):
            of_weight.check(wrong.float(), "weight")
    of_features.check(direct_gradients(g, x, weight.double(), ALL)[0].float(), "features")
    turned = torch.conv2d(grad, weight.transpose(0, 1), padding=1)
    with pytest.raises(AssertionError, match="times the error bound"):
        of_features.check(turned, "features")


@pytest.mark.usefixtures("kernels", "any_number_of_threads")
@pytest.mark.parametrize("dtype", DTYPES_SERVED, ids=str)
def test_gradients_do_not_depend_on_the_number_of_threads(dtype):
    layouts = {"layout": "channels_last", "grad_layout": "channels_last"}
    tensors = Step(Call((3, 20, 70, 90), dtype=dtype, dyadic=False, **layouts), outputs=35).tensors()
    torch.set_num_threads(1)
    alone = cpu.conv3x3_gradients(*tensors, ALL)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for _ in range(3):
            for actual, expected in zip(cpu.conv3x3_gradients(*tensors, ALL), alone, strict=True):
                assert torch.equal(actual, expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_do_not_depend_on_strides(layout):
    before = Call((2, 19, 10, 21), layout=layout, grad_layout=layout, dyadic=False)
    tensors = Step(before, outputs=17).tensors()
    found = cpu.conv3x3_gradients(*tensors, ALL)
    is_last = tensors[1].is_contiguous(memory_format=torch.channels_last)
    assert found[0].is_contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
    contiguous = cpu.conv3x3_gradients(*(tensor.contiguous() for tensor in tensors), ALL)
    turned = (tensors[0], tensors[1], tensors[2].transpose(2, 3).contiguous().transpose(2, 3))
    for others in (contiguous, cpu.conv3x3_gradients(*turned, ALL)):
        for actual, expected in zip(found, others, strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES_SERVED, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("place", ["gradient", "features"])
def test_values_that_are_not_finite_go_where_the_direct_gradient_takes_them(dtype, value, place):
    layouts = {"layout": "channels_last", "grad_layout": "channels_last"}
    grad, features, weight = Step(Call((2, 17, 19, 26), dtype=dtype, dyadic=False, **layouts)).tensors()
    changed = grad if place == "gradient" else features
    scale = 1.0 if dtype == torch.float32 else 1e270  # so that the largest number is not far
    for h, w in [(0, 0), (5, 4), (18, 25)]:
        changed[1, 3, h, w] = value * scale
    found = cpu.conv3x3_gradients(grad, features, weight, ALL)
    expected = direct_gradients(grad, features, weight, ALL)
    for actual, wanted in zip(found, expected, strict=True):
        assert torch.equal(actual.isfinite(), wanted.isfinite())
        assert torch.equal(actual.isnan(), wanted.isnan())
    if not math.isfinite(value):
        assert not all(gradient.isfinite().all() for gradient in found)
        assert torch.equal(found[1].nan_to_num(), expected[1].nan_to_num())


@pytest.mark.usefixtures("kernels")
def test_only_what_is_wanted_is_computed():
    tensors = Step(Call((1, 16, 9, 11), dyadic=False)).tensors()
    found = cpu.conv3x3_gradients(*tensors, ALL)
    for number in range(8):
        wanted = tuple(bool(number >> place & 1) for place in range(3))
        for gradient, one, of in zip(cpu.conv3x3_gradients(*tensors, wanted), found, wanted, strict=True):
            assert (gradient is not None) == of
            assert gradient is None or torch.equal(gradient, one)


# ---- through the operators -----------------------------------------------------------------------------------------

cpu_is_built = pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")


def served(size: tuple[int, int] = (32, 33), dtype: torch.dtype = torch.float32, **options: object) -> Half:
    """Half a block of a size that the kernels are for, where a gradient is wanted."""
    before = Call((1, 16, *size), dtype=dtype, layout="channels_last", output_negative_slope=0.1, dyadic=False)
    half = Half(before, **{"outputs": 16, "packed": False, **options})
    assert cpu.serves_conv3x3(half.call(), recorded=True)
    return half


@pytest.fixture
def gradients(monkeypatch):
    """The gradients that were wanted of the "cpu" backend's kernels, call by call."""
    calls, original = [], cpu.conv3x3_gradients
    monkeypatch.setattr(cpu, "conv3x3_gradients", lambda *a: calls.append(a[3]) or original(*a))
    return calls


@cpu_is_built
@pytest.mark.parametrize("slope", [None, 0.1])
@pytest.mark.parametrize("steered", [True, False], ids=["rda_conv3x3", "conv3x3"])
def test_gradients_of_both_orders(monkeypatch, gradients, steered, slope):
    monkeypatch.setattr(cpu, "_FEWEST_PIXELS", 0)
    call = served((5, 6), torch.float64, steered=steered).call()
    before = call.steered[:4] if steered else (call.input,)
    tensors = [t.requires_grad_() for t in (*before, call.conv_weight, call.conv_bias, call.skip)]

    def function(*tensors):
        options = {"skip": tensors[-1], "output_negative_slope": slope, "backend": "cpu"}
        return (rda_conv3x3 if steered else conv3x3)(*tensors[:-1], **options)

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert ALL in gradients
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@cpu_is_built
@pytest.mark.parametrize("steered", [True, False], ids=["rda_conv3x3", "conv3x3"])
@pytest.mark.parametrize(
    ("some", "wanted"),
    [({"conv_weight"}, (False, True, False)), ({"input"}, (True, False, False)), ({"conv_bias"}, (False, False, True))],
    ids=["weight", "input", "bias"],
)
def test_frozen_parts_cost_no_gradient(gradients, steered, some, wanted):
    call = served(steered=steered).call()
    tensors = {"input": call.input, "conv_weight": call.conv_weight, "conv_bias": call.conv_bias}
    for name in some:
        tensors[name].requires_grad_()
    if steered:
        output = rda_conv3x3(*call.steered[:4], call.conv_weight, call.conv_bias, backend="cpu")
    else:
        output = conv3x3(*tensors.values(), backend="cpu")
    output.sum().backward()
    assert gradients == [wanted]
    assert {name for name, tensor in tensors.items() if tensor.grad is not None} == some


@cpu_is_built
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_of_the_skip_alone_needs_no_kernel(dtype):
    call = Half(Call((1, 16, 32, 33), dtype=dtype), outputs=16, steered=False, packed=False, slope=None).call()
    conv3x3(call.input, call.conv_weight, skip=call.skip.requires_grad_(), backend="cpu").sum().backward()
    assert torch.equal(call.skip.grad, torch.ones_like(call.skip))


@cpu_is_built
@pytest.mark.parametrize(
    "other",
    [
        {"before": Call((1, 16, 32, 33), dtype=torch.bfloat16)},
        {"before": Call((1, 16, 32, 33), dtype=torch.float16)},
        {"before": Call((1, 15, 32, 33))},
        {"before": Call((1, 16, 31, 33))},
        {"before": Call((1, 16, 32, 33)), "outputs": 15},
    ],
    ids=["bfloat16", "float16", "inputs", "pixels", "outputs"],
)
def test_what_torch_trains_faster_is_composed(gradients, other):
    call = Half(**{"outputs": 16, "packed": False, **other}).call()
    assert not cpu.serves_conv3x3(call, recorded=True)
    call.conv_weight.requires_grad_()
    rda_conv3x3(*call.steered[:4], call.conv_weight, call.conv_bias, backend="cpu").sum().backward()
    assert gradients == []
    assert call.conv_weight.grad is not None
