"""Eager calls go past torch's dispatcher, except where somebody takes part in them there."""

import pytest
import torch
from calls import Call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mrda_kernels import dynamic_depthwise_conv2d, rda_conv, rda_conv2d

OPS = torch.ops.mrda_kernels
CALL = Call((2, 3, 4, 5), dyadic=False)


@pytest.fixture
def eager_calls(monkeypatch):
    """The calls that went past the dispatcher."""
    seen = []
    original = rda_conv._run_eagerly
    monkeypatch.setattr(rda_conv, "_run_eagerly", lambda call, backend: (seen.append(call), original(call, backend))[1])
    return seen


def leaves(call=CALL):
    return [t.requires_grad_() for t in call.tensors()]


def test_ordinary_calls_go_past_the_dispatcher(eager_calls):
    tensors = CALL.tensors()
    rda_conv2d(*tensors)
    dynamic_depthwise_conv2d(*tensors[:2])
    rda_conv2d(*map(torch.nn.Parameter, tensors), output_negative_slope=0.2)
    with torch.no_grad():
        rda_conv2d(*leaves())
    with torch.inference_mode():
        rda_conv2d(*CALL.tensors())
    with torch.autocast("cpu", torch.bfloat16):
        assert rda_conv2d(*tensors).dtype == torch.bfloat16
    assert len(eager_calls) == 6


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_both_ways_give_the_same_bits(backend, mode):
    tensors = leaves()
    with mode():
        assert torch.equal(rda_conv2d(*tensors, backend=backend), OPS.rda_conv2d(*tensors, 0.1, None, backend))
        bare = OPS.dynamic_depthwise_conv2d(*tensors[:2], 1.0, backend)
        assert torch.equal(dynamic_depthwise_conv2d(*tensors[:2], backend=backend), bare)


@pytest.mark.parametrize("bias", [True, False])
def test_both_ways_give_the_same_gradients(backend, bias, eager_calls):
    call = Call((2, 3, 4, 5), dyadic=False, bias=bias)
    grads = []
    for operator in (
        lambda *tensors: rda_conv2d(*tensors, backend=backend),
        lambda *tensors: OPS.rda_conv2d(*tensors, 0.1, None, backend),
    ):
        input, weight, mask_weight, mask_bias = call.tensors()
        tensors = [t.requires_grad_() for t in (input, weight, mask_weight, mask_bias) if t is not None]
        output = operator(input, weight, mask_weight, mask_bias)
        grads.append(torch.autograd.grad(output, tensors, call.grad_output()))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert len(eager_calls) == 1


class Names(TorchDispatchMode):
    """Collects the names of the operators that are dispatched."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_both_operators(eager_calls):
    tensors = leaves()
    with Names() as names:
        rda_conv2d(*tensors)
    assert "mrda_kernels::rda_conv2d" in names.seen
    assert eager_calls == []
    output = rda_conv2d(*tensors)
    with Names() as names:  # around the backward alone
        output.sum().backward()
    assert "mrda_kernels::rda_conv2d_backward" in names.seen


def test_a_function_mode_sees_the_operator(eager_calls):
    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen = []
    with Functions():
        rda_conv2d(*CALL.tensors())
    assert any("rda_conv2d" in name for name in seen)
    assert eager_calls == []


def test_a_profile_names_the_operator():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        rda_conv2d(*CALL.tensors())
    assert "mrda_kernels::rda_conv2d" in {event.key for event in profile.key_averages()}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_trace_records_the_operator():
    traced = torch.jit.trace(lambda *tensors: rda_conv2d(*tensors), CALL.tensors())
    assert "mrda_kernels::rda_conv2d" in str(traced.graph)
    other = Call((2, 3, 4, 5), dyadic=False, seed=1).tensors()
    assert torch.equal(traced(*other), rda_conv2d(*other))


def test_a_subclass_sees_the_operator(eager_calls):
    class Named(torch.Tensor):
        pass

    input, *small = CALL.tensors()
    output = rda_conv2d(input.as_subclass(Named), *small)
    assert type(output) is Named
    assert eager_calls == []


def test_a_lazily_negated_input_is_negated(backend):
    input, *small = CALL.tensors()
    lazy = torch.view_as_complex(torch.stack([input, -input], dim=-1)).conj().imag
    assert lazy.is_neg()
    assert torch.equal(lazy, input)
    assert torch.equal(rda_conv2d(lazy, *small, backend=backend), rda_conv2d(input, *small, backend=backend))


def test_a_lazily_negated_gradient_is_negated(backend):
    grad = CALL.grad_output()
    lazy = torch.view_as_complex(torch.stack([grad, -grad], dim=-1)).conj().imag
    assert lazy.is_neg()
    results = []
    for one in (grad, lazy):
        tensors = leaves()
        results.append(torch.autograd.grad(rda_conv2d(*tensors, backend=backend), tensors, one))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_meta_tensors_do_not_reach_a_backend(eager_calls):
    assert rda_conv2d(*(t.to("meta") for t in CALL.tensors())).device.type == "meta"
    assert eager_calls == []


def test_a_slope_of_another_type_is_taken_as_a_number(eager_calls):
    tensors = CALL.tensors()
    assert torch.equal(rda_conv2d(*tensors, negative_slope=1), rda_conv2d(*tensors, negative_slope=1.0))
    assert len(eager_calls) == 1
