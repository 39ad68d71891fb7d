"""rda_conv3x3 and conv3x3 on every backend, within the error budget; their derivatives, and what they refuse."""

import dataclasses
import math
import re
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from budget import INPUT_TRANSFORM, Bounded, RdaBudget, conv3x3_forward, dynamic_forward, winograd_conv
from calls import LAYOUTS, Call
from contexts import AUTOCAST, CONTEXTS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from mrda_kernels import conv3x3, dispatch, pack_conv3x3, rda_conv2d, rda_conv3x3
from mrda_kernels.backends import cpu
from mrda_kernels.call import DTYPES, RdaCall
from mrda_kernels.conv3x3_call import Conv3x3Call

OPS = torch.ops.mrda_kernels


@dataclass(frozen=True)
class Half:
    """A description of the arguments of rda_conv3x3; it makes the same tensors each time."""

    before: Call
    outputs: int = 8
    bias: bool = True
    skip: str | None = "nchw"
    slope: float | None = 0.1
    steered: bool = True
    masked: bool = True
    packed: bool = True

    def call(self) -> Conv3x3Call:
        batch, channels, height, width = self.before.shape
        steered = RdaCall(*self.before.tensors(), *self.before.options)
        if not self.masked:
            steered = RdaCall.bare(*steered[:2], self.before.negative_slope)
        scale = 1 / (3 * math.sqrt(channels))
        weight = self.before._values((self.outputs, channels, 3, 3), 5, scale)
        bias = self.before._values((self.outputs,), 6, 1.0) if self.bias else None
        skip = self.before._values((batch, self.outputs, height, width), 7, 1.0)
        return Conv3x3Call.make(
            steered if self.steered else steered.input,
            pack_conv3x3(weight) if self.packed else weight,
            bias,
            None if self.skip is None else LAYOUTS[self.skip](skip),
            self.slope,
        )


def run(call: Conv3x3Call, backend: str | None) -> torch.Tensor:
    operator = OPS.conv3x3 if call.steered is None else OPS.rda_conv3x3
    return operator(*call.flat(), backend)


def check(half: Half, backend: str) -> None:
    call = half.call()
    output = run(call, backend)
    assert output.dtype == half.before.dtype
    assert output.is_contiguous(memory_format=call.like_input.memory_format)
    if call.steered is None:
        features = Bounded(call.input.double(), torch.zeros(call.input.shape, dtype=torch.float64))
    elif call.steered.mask_weight is None:
        features = dynamic_forward(*call.steered[:2], call.steered.negative_slope)
    else:
        features = RdaBudget(*call.steered, exact_z=half.before.dyadic).forward()
    fused = backend == "cpu" and cpu.serves_conv3x3(call)
    conv3x3_forward(features, call, winograd=fused, composed=backend == "cpu" and not fused).check(output, "output")


shapes = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 9), st.integers(1, 21)),
    st.tuples(st.just(1), st.integers(1, 20), st.integers(10, 20), st.integers(90, 110)),
)
halves = st.builds(
    Half,
    before=st.builds(
        Call,
        shape=shapes,
        kernel_size=st.sampled_from([1, 3, 5, 7]),
        dtype=st.sampled_from(DTYPES),
        full_mask=st.booleans(),
        bias=st.booleans(),
        output_negative_slope=st.sampled_from([None, 0.1]),
        layout=st.sampled_from(list(LAYOUTS)),
        dyadic=st.booleans(),
        seed=st.integers(0, 2**16),
    ),
    outputs=st.integers(1, 35),
    bias=st.booleans(),
    skip=st.sampled_from([None, *LAYOUTS]),
    slope=st.sampled_from([None, 0.1, 0.0]),
    steered=st.booleans(),
    masked=st.booleans(),
    packed=st.sampled_from([True, True, False]),
)


@pytest.fixture
def served(backend):
    """The backends that do not compose the operators of others."""
    if backend not in ("cpu", "reference"):
        pytest.skip("it runs the composition, whose parts have tests of their own")
    return backend


def test_any_call_stays_within_the_budget(served):
    @settings(max_examples=30 if served == "cpu" else 10)
    @given(halves)
    @example(Half(Call((1, 1, 1, 1)), outputs=1))
    @example(Half(Call((1, 70, 9, 120), layout="channels_last", dyadic=False), outputs=64, skip="channels_last"))
    @example(Half(Call((1, 70, 11, 90), dtype=torch.bfloat16, layout="channels_last", dyadic=False), outputs=40))
    @example(Half(Call((1, 70, 9, 120), layout="channels_last", dyadic=False), outputs=64, masked=False))
    def property_(half: Half) -> None:
        check(half, served)

    property_()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    list(zip([(1, 64, 5, 103), (1, 16, 9, 97), (5, 8, 33, 8), (1, 200, 8, 9)], DTYPES, strict=True)),
    ids=str,
)
def test_strips_steps_and_segments(served, shape, dtype):
    # strips of unequal width, steps of several rows of windows, windows that reach beyond the image
    before = Call(shape, dtype=dtype, layout="channels_last", output_negative_slope=0.1, dyadic=False)
    check(Half(before, outputs=24, skip="channels_last"), served)


@pytest.mark.parametrize("steered", [True, False], ids=["rda_conv3x3", "conv3x3"])
def test_bfloat16_is_summed_in_float32_whatever_the_processor_has(served, monkeypatch, steered):
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: True)
    before = Call((2, 24, 9, 21), dtype=torch.bfloat16, layout="channels_last", output_negative_slope=0.1, dyadic=False)
    half = Half(before, outputs=16, skip="channels_last", steered=steered)
    assert cpu.serves_conv3x3(half.call()._replace(packed_weight=torch.empty(0)))
    check(half, served)


def test_the_transforms_of_the_budget_are_a_convolution():
    features, weight = torch.randn(2, 5, 9, 14, dtype=torch.float64), torch.randn(3, 5, 3, 3, dtype=torch.float64)
    expected = F.conv2d(features, weight, padding=1)
    torch.testing.assert_close(winograd_conv(features, weight), expected, rtol=0, atol=1e-13)


def test_the_budget_catches_a_wrong_constant_and_a_wrong_window():
    half = Half(Call((1, 16, 12, 20), layout="channels_last", dyadic=False), steered=False, skip=None, slope=None)
    call = half.call()
    x, weight, bias = call.input.double(), call.conv_weight.double(), call.conv_bias.double()[:, None, None]
    exact = Bounded(x, torch.zeros_like(x))
    budget = conv3x3_forward(exact, call, winograd=True)
    budget.check((winograd_conv(x, weight) + bias).float(), "output")
    wrong = INPUT_TRANSFORM.clone()
    wrong[1, 3] *= 1.01
    for output in (winograd_conv(x, weight, b=wrong), winograd_conv(x.roll(1, 3), weight)):
        with pytest.raises(AssertionError, match="times the error bound"):
            budget.check((output + bias).float(), "output")


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_values_that_are_not_finite_stay_where_they_belong(served, layout, value):
    half = Half(Call((2, 17, 19, 45), layout=layout, dyadic=False), steered=False, skip=None)
    call = half.call()
    clean = run(call, served)
    near = torch.zeros(call.input.shape[2:], dtype=torch.bool)
    for h, w in [(0, 0), (5, 4), (7, 8), (18, 44)]:
        call.input[1, 3, h, w] = value
        near[max(h - 1, 0) : h + 2, max(w - 1, 0) : w + 2] = True
    output = run(call, served)
    expected = F.conv2d(call.input, call.conv_weight, call.conv_bias, padding=1)
    assert torch.equal(output.isfinite(), F.leaky_relu(expected, 0.1).isfinite())
    assert torch.equal(output[0], clean[0])
    torch.testing.assert_close(output[1][:, ~near], clean[1][:, ~near], rtol=0, atol=1e-5)


@pytest.mark.usefixtures("any_number_of_threads")
@pytest.mark.parametrize("shape", [(3, 8, 50, 70), (1, 8, 9, 9)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(served, shape):
    call = Half(Call(shape, layout="channels_last", dyadic=False)).call()
    torch.set_num_threads(1)
    alone = run(call, served)
    for threads in (2, 3) if served == "cpu" else ():
        torch.set_num_threads(threads)
        assert torch.equal(run(call, served), alone)


def test_packed_weights_give_the_same_result(served):
    half = Half(Call((1, 6, 40, 37), layout="channels_last"))
    packed, plain = half.call(), dataclasses.replace(half, packed=False).call()
    assert (packed.packed_weight is None) == (dispatch.load("cpu").why_not("cpu") is not None)
    assert torch.equal(run(plain, served), run(packed, served))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5)], ids=str)
def test_empty_images(served, shape):
    output = run(Half(Call(shape)).call(), served)
    assert output.shape == (shape[0], 8, *shape[2:])


# ---- the function, on the default backend ------------------------------------------------------------------


def arguments(dtype=torch.float64, size=(2, 3, 5, 6)):
    call = Half(Call(size, dtype=dtype, dyadic=False), outputs=4).call()
    return [*call.steered[:4], call.conv_weight, call.conv_bias], call.skip


def composed(inputs, skip):
    features = rda_conv2d(*inputs[:4], output_negative_slope=0.1)
    return F.leaky_relu(F.conv2d(features, *inputs[4:], padding=1) + skip, 0.1)


def test_gradients_of_both_orders():
    inputs, skip = arguments(size=(1, 2, 2, 3))
    tensors = [t.requires_grad_() for t in (*inputs, skip)]

    def function(*tensors):
        return rda_conv3x3(*tensors[:-1], skip=tensors[-1], output_negative_slope=0.1)

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(lambda x, w: function(x, *tensors[1:4], w, *tensors[5:]), tensors[::4][:2])
    assert torch.autograd.gradcheck(lambda x, w: conv3x3(x, w), (tensors[0], tensors[4]))


@pytest.mark.parametrize("size", [(0, 3, 5, 6), (2, 3, 0, 6), (2, 3, 5, 0)], ids=str)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_gradients_for_empty_images_are_zeros(size, backend):
    inputs, skip = arguments(size=size)
    tensors = [t.requires_grad_() for t in (*inputs, skip)]
    output = rda_conv3x3(*inputs, skip=skip, backend=backend)
    assert output.shape == (size[0], 4, *size[2:])
    for tensor, gradient in zip(tensors, torch.autograd.grad(output.sum(), tensors), strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))
    stacked = torch.stack([inputs[0]] * 2)
    assert torch.func.vmap(lambda x: conv3x3(x, inputs[4]))(stacked).shape == (2, *output.shape)


def test_transforms_and_forward_mode():
    inputs, skip = arguments()

    def function(x):
        return rda_conv3x3(x, *inputs[1:], skip=skip, output_negative_slope=0.1)

    def expected(x):
        return composed([x, *inputs[1:]], skip)

    tangent = torch.randn_like(inputs[0])
    for transform in (
        lambda f: torch.func.jvp(f, (inputs[0],), (tangent,))[1],
        lambda f: torch.func.vjp(f, inputs[0])[1](torch.ones_like(skip))[0],
        lambda f: torch.func.vmap(f)(torch.stack([inputs[0], tangent])),
        lambda f: torch.autograd.functional.jvp(f, inputs[0], tangent)[1],
    ):
        torch.testing.assert_close(transform(function), transform(expected))


def test_vmap_over_the_skip_alone():
    inputs, skip = arguments()
    skips = torch.stack([skip, 2 * skip])
    outputs = torch.func.vmap(lambda skip: rda_conv3x3(*inputs, skip=skip, output_negative_slope=0.1))(skips)
    torch.testing.assert_close(outputs, torch.stack([composed(inputs, skip) for skip in skips]))


def test_under_compile_and_autocast():
    inputs, skip = arguments(torch.float32)
    eager = rda_conv3x3(*inputs, skip=skip)
    compiled = torch.compile(lambda *t: rda_conv3x3(*t[:-1], skip=t[-1]), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*inputs, skip), eager)
    with torch.autocast("cpu", torch.bfloat16):
        half = rda_conv3x3(*inputs[:4], pack_conv3x3(inputs[4]), inputs[5], skip=skip)
        mixed = rda_conv3x3(inputs[0].bfloat16(), *inputs[1:4], inputs[4].bfloat16(), inputs[5], skip=skip)
        direct = OPS.conv3x3(inputs[0], inputs[4], None, inputs[5], skip, None, None)
    for output in (half, mixed):
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), eager, rtol=0, atol=0.1)
    torch.testing.assert_close(direct, conv3x3(inputs[0], *inputs[4:], skip=skip))  # torch.ops cast nothing


@pytest.mark.parametrize("wants_gradient", [False, True], ids=["inference", "gradient"])
@pytest.mark.parametrize("place", range(7))
def test_autocast_casts_every_tensor_but_those_of_float64(place, wants_gradient):
    inputs, skip = arguments(torch.float32)
    tensors = [*inputs, skip]

    def function(*tensors):
        return rda_conv3x3(*tensors[:-1], skip=tensors[-1])

    expected = function(*(t.bfloat16() for t in tensors))
    mixed = [t if number == place else t.bfloat16() for number, t in enumerate(tensors)]
    mixed[place].requires_grad_(wants_gradient)
    with torch.autocast("cpu", torch.bfloat16):
        output = function(*mixed)
        mixed[place] = mixed[place].double()
        with pytest.raises(TypeError, match=r"has dtype torch\..*, but must have input's"):
            function(*mixed)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected, rtol=0, atol=0.1)  # by the composition if there is a gradient


@pytest.mark.parametrize("wants_gradient", [False, True], ids=["inference", "gradient"])
@pytest.mark.parametrize("channels", [3, 20])
def test_inside_of_the_operators_nothing_is_cast(channels, wants_gradient):
    (*inputs, bias), skip = arguments(torch.float32, (2, channels, 5, 6))
    inputs[0].requires_grad_(wants_gradient)
    calls = (
        lambda: OPS.rda_conv3x3(*inputs[:4], 0.1, 0.1, inputs[4], None, bias, skip, 0.1, None),
        lambda: OPS.conv3x3(inputs[0], inputs[4], None, bias, skip, None, None),
    )
    for call in calls:
        expected = call()
        with torch.autocast("cpu", torch.bfloat16):
            output = call()
        assert output.dtype == torch.float32
        assert torch.equal(output, expected)


@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning")
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_changes_nothing(served, name):
    half = Half(Call((2, 17, 5, 6), layout="channels_last", dyadic=False))
    dtype = AUTOCAST.get(name, torch.float32)
    tensors = [None if t is None else t.to(dtype) for t in half.call().tensors()]

    def function(packs):
        weight = pack_conv3x3(tensors[4]) if packs else tensors[4]
        return rda_conv3x3(*tensors[:4], weight, tensors[6], skip=tensors[7], output_negative_slope=0.1, backend=served)

    for packs in (False, True):  # which choose different kernels for so small an image
        expected = function(packs)
        with CONTEXTS[name]():
            output = function(packs)
        assert output.dtype == dtype
        assert output.stride() == expected.stride()
        assert torch.equal(output, expected)


@pytest.mark.parametrize("wants_gradient", [False, True], ids=["inference", "gradient"])
def test_opcheck(wants_gradient):
    inputs, skip = arguments(torch.float32)
    inputs[0].requires_grad_(wants_gradient)
    torch.library.opcheck(OPS.rda_conv3x3.default, (*inputs[:4], 0.1, 0.1, inputs[4], None, inputs[5], skip, 0.1, None))
    torch.library.opcheck(OPS.conv3x3.default, (inputs[0], inputs[4], None, None, skip, None, None))


MISTAKES = {
    "conv_weight has shape (4, 3, 1, 1), but must be (C_out, C_in, 3, 3), both at least 1": {
        4: torch.zeros(4, 3, 1, 1)
    },
    "conv_weight has shape (4, 2, 3, 3), but its C_in must be input's C = 3": {4: torch.zeros(4, 2, 3, 3)},
    "conv_bias has shape (3,), but must be (C_out,) = (4,)": {5: torch.zeros(3)},
    "conv_bias has dtype torch.float64, but must have input's, torch.float32": {5: torch.zeros(4, dtype=torch.float64)},
    "conv_weight has dtype torch.float64, but must have input's, torch.float32": {
        4: torch.zeros(4, 3, 3, 3, dtype=torch.float64)
    },
    "skip has shape (2, 3, 5, 6), but must be (2, 4, 5, 6)": {"skip": torch.zeros(2, 3, 5, 6)},
    "output_negative_slope is nan, but must be a finite number": {"output_negative_slope": math.nan},
    "conv_weight is list, but must be a torch.Tensor": {4: [1.0]},
    f"backend is 'gpu', but must be None or one of {', '.join(dispatch.BACKENDS)}": {"backend": "gpu"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes(message):
    inputs, skip = arguments(torch.float32)
    options = {"skip": skip}
    for place, value in MISTAKES[message].items():
        if isinstance(place, int):
            inputs[place] = value
        else:
            options[place] = value
    with pytest.raises((TypeError, ValueError)) as raised:
        rda_conv3x3(*inputs, **options)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(4, 3, 3, 3, dtype=torch.int32), "has dtype torch.int32, but must be float32"),
        (torch.zeros(4, 3, 3, 3).to_sparse(), "has layout torch.sparse_coo, but must be torch.strided"),
        (torch.zeros(4, 3, 1, 1), "has shape (4, 3, 1, 1), but must be"),
        ([1.0], "is list, but must be"),
    ],
    ids=["dtype", "layout", "shape", "type"],
)
def test_weights_that_can_not_be_packed(weight, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(f"conv_weight {message}")):
        pack_conv3x3(weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:-1], "another shape than the weights that were packed"),
        (lambda t: t.repeat(2)[::2], "another shape than the weights that were packed"),
        (lambda t: t.to("meta"), "packed on another device"),
    ],
    ids=["length", "layout", "device"],
)
def test_packed_weights_that_do_not_fit(change, message):
    inputs, _ = arguments(torch.float32)
    packed = pack_conv3x3(inputs[4])
    if packed.packed is None:
        pytest.skip("no backend here packs weights")
    inputs[4] = packed._replace(packed=change(packed.packed))
    with pytest.raises(ValueError, match=message):
        rda_conv3x3(*inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight.double(), "packed in another dtype; pack it again"),
        (lambda weight: weight[:, :2], "another shape than the weights that were packed; pack it again"),
        (lambda weight: weight.repeat(5, 1, 1, 1), "another shape than the weights that were packed; pack it again"),
    ],
    ids=["dtype", "inputs", "outputs"],
)
def test_weights_packed_from_others(change, message):
    inputs, _ = arguments(torch.float32)
    packed = pack_conv3x3(change(inputs[4]))
    if packed.packed is None:
        pytest.skip("no backend here packs weights")
    inputs[4] = packed._replace(weight=inputs[4])
    with pytest.raises((TypeError, ValueError), match=message):
        rda_conv3x3(*inputs, backend="cpu")


def test_weights_without_memory_are_not_packed():
    weight = torch.randn(4, 3, 3, 3)
    features = torch.randn(1, 3, 5, 6)
    with FakeTensorMode():
        assert pack_conv3x3(torch.empty(4, 3, 3, 3)).packed is None
    assert pack_conv3x3(weight.to("meta")).packed is None
    compiled = torch.compile(lambda w: conv3x3(features, pack_conv3x3(w)), backend="aot_eager", fullgraph=True)
    outputs = torch.func.vmap(lambda w: conv3x3(features, pack_conv3x3(w)))(torch.stack([weight, -weight]))
    negated = conv3x3(features, pack_conv3x3(torch._neg_view(weight)))
    expected = F.conv2d(features, weight, padding=1)
    for output in (compiled(weight), outputs[0], -outputs[1], -negated):
        torch.testing.assert_close(output, expected)
