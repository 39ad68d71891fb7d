"""Gradients through autograd: of first and second order, of some of the inputs, of every layout."""

import itertools
from functools import partial

import pytest
import torch
from calls import Call, interpreted, skip_if_interpreted
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d, reference
from mrda_kernels.call import RdaCall

OPS = torch.ops.mrda_kernels


def leaves(call):
    return [None if t is None else t.requires_grad_() for t in call.tensors()]


def compare_with_finite_differences(function, tensors, backend):
    # All share the formula of the second order: each element with the reference, a random direction elsewhere.
    undefined = not interpreted(backend)
    assert gradcheck(function, tensors, fast_mode=backend not in ("reference", "cpu"), check_undefined_grad=undefined)
    assert gradgradcheck(function, tensors, fast_mode=backend != "reference", check_undefined_grad=undefined)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize(
    "options",
    [
        {"layout": "nchw", "bias": False},
        {"layout": "channels_last"},
        {"layout": "nchw", "full_mask": True, "output_negative_slope": 0.2},
        {"layout": "channels_last", "full_mask": True, "bias": False, "output_negative_slope": 0.2},
        {"layout": "channels_last", "negative_slope": 1.0, "output_negative_slope": 0.0},
    ],
    ids=str,
)
def test_finite_differences_agree(backend, options):
    skip_if_interpreted(backend, "output_negative_slope" not in options)
    shape = (1, 2, 3, 2) if interpreted(backend) else (2, 3, 3, 2)
    call = Call(shape, dtype=torch.float64, dyadic=False, seed=1, **options)
    tensors = leaves(call)
    with torch.no_grad():
        z = dynamic_depthwise_conv2d(*tensors[:2])
        y = rda_conv2d(*tensors, negative_slope=call.negative_slope)
    assert min(z.abs().min(), y.abs().min()) > 1e-3  # no step of 1e-6 crosses the kink of an activation

    def function(*tensors):
        return OPS.rda_conv2d(*tensors, *call.options, backend)

    compare_with_finite_differences(function, tensors, backend)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_finite_differences_agree_for_the_bare_convolution(backend, layout, kernel_size):
    skip_if_interpreted(backend, kernel_size == 5)
    call = Call((2, 2, 3, 2), kernel_size, torch.float64, layout=layout)
    tensors = leaves(call)[:2]

    def function(*tensors):
        return dynamic_depthwise_conv2d(*tensors, backend=backend)

    compare_with_finite_differences(function, tensors, backend)


@pytest.mark.parametrize("wanted", [w for w in itertools.product([False, True], repeat=4) if any(w)], ids=str)
def test_gradients_of_some_inputs(backend, wanted):
    skip_if_interpreted(backend, sum(wanted) in (2, 3))
    call = Call((2, 3, 4, 5), output_negative_slope=0.1)
    tensors = call.tensors()
    every = OPS.rda_conv2d_backward(call.grad_output(), *tensors, *call.options, backend)
    for t, want in zip(tensors, wanted, strict=True):
        t.requires_grad_(want)
    output = rda_conv2d(*tensors, output_negative_slope=0.1, backend=backend)
    output.backward(call.grad_output())
    for t, want, grad in zip(tensors, wanted, every, strict=True):
        assert torch.equal(t.grad, grad) if want else t.grad is None


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("grad_layout", ["nchw", "channels_last", "step2", "transposed"])
def test_grad_output_of_any_strides(backend, layout, grad_layout):
    grads = []
    for grad_output_layout in ("nchw", grad_layout):
        call = Call((2, 3, 4, 5), layout=layout, grad_layout=grad_output_layout)
        tensors = leaves(call)
        output = rda_conv2d(*tensors, backend=backend)
        grads.append(torch.autograd.grad(output, tensors, call.grad_output()))
    # On a GPU the reference is cuDNN's, whose algorithms differ from layout to layout.
    rounding = 1e-5 if backend == "reference" and tensors[0].is_cuda else 0.0
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_grad_output_expanded_from_a_sum(backend, layout):
    call = Call((2, 3, 4, 5), layout=layout)
    tensors = leaves(call)
    grads = torch.autograd.grad(rda_conv2d(*tensors, backend=backend).sum(), tensors)
    ones = torch.ones(call.shape)
    assert all(
        torch.equal(a, b)
        for a, b in zip(grads, OPS.rda_conv2d_backward(ones, *tensors, *call.options, backend), strict=True)
    )


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty_tensors_have_gradients_of_zero(backend, shape):
    call = Call(shape)
    tensors = leaves(call)
    grads = torch.autograd.grad(rda_conv2d(*tensors, backend=backend).sum(), tensors, create_graph=True)
    for t, grad in zip(tensors, grads, strict=True):
        assert torch.equal(grad, torch.zeros_like(t))
    second = torch.autograd.grad(sum(g.sum() for g in grads), tensors, allow_unused=True)
    assert all(g is None or not g.any() for g in second)

    tensors = tensors[:2]
    grads = torch.autograd.grad(dynamic_depthwise_conv2d(*tensors, backend=backend).sum(), tensors)
    for t, grad in zip(tensors, grads, strict=True):
        assert torch.equal(grad, torch.zeros_like(t))


def test_second_order_of_some_inputs(backend):
    # A gradient penalty: the second backward wants the gradient of the weight only, and gets grad_input's
    # only. With a mask of 1/2 and slopes that are powers of two, all of it is exact.
    results = []
    for name in (backend, "reference"):
        input, weight, mask_weight, mask_bias = leaves(Call((1, 2, 4, 5), dtype=torch.float64))
        with torch.no_grad():
            mask_weight.zero_()
            mask_bias.zero_()
        output = rda_conv2d(input, weight, mask_weight, mask_bias, negative_slope=0.5, backend=name)
        (grad,) = torch.autograd.grad(output.sum(), input, create_graph=True)
        results += torch.autograd.grad(grad.square().sum(), weight)
    assert results[1].any()
    assert torch.equal(*results)


def chain(function):
    """Two calls, and a loss that is not linear: every gradient depends on every input in several ways."""

    def loss(input, weight, mask_weight, mask_bias):
        inner = function(input, weight, mask_weight, mask_bias)
        return function(inner, weight, mask_weight, mask_bias).square().sum()

    return loss


def penalties(loss, tensors, order):
    """Gradients of the sum of squares of the gradients ... of the loss, `order` times."""
    value = loss(*tensors)
    for step in range(order):
        grads = torch.autograd.grad(value, tensors, create_graph=step < order - 1)
        value = sum(grad.square().sum() for grad in grads)
    return grads


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("full_mask", [False, True])
def test_gradient_penalties_agree_with_torchs_own(backend, order, full_mask):
    # The gradient of the result depends on the inputs here, which gradgradcheck does not try.
    call = Call((2, 3, 3, 2), dtype=torch.float64, dyadic=False, seed=1, full_mask=full_mask)

    slopes = {"negative_slope": 0.3, "output_negative_slope": 0.2}
    ours = partial(rda_conv2d, **slopes, backend=backend)
    torchs_own = partial(reference.rda_conv2d, **slopes)  # torch's operators alone, with their own higher derivatives

    results = [penalties(chain(f), leaves(call), order) for f in (ours, torchs_own)]
    for got, expected in zip(*results, strict=True):
        # some 1e4 float64 roundings at most, each relative to the largest term
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("order", [2, 3])
def test_gradient_penalties_agree_for_the_bare_convolution(backend, order):
    tensors = Call((2, 3, 3, 2), dtype=torch.float64, dyadic=False, seed=1).tensors()[:2]

    def loss(operator):
        return lambda input, weight: operator(operator(input, weight), weight).square().sum()

    def ours(input, weight):
        return dynamic_depthwise_conv2d(input, weight, backend=backend)

    results = [
        penalties(loss(f), [t.clone().requires_grad_() for t in tensors], order)
        for f in (ours, lambda input, weight: reference.forward(RdaCall.bare(input, weight)))
    ]
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


def test_nothing_is_recorded_without_grad():
    tensors = leaves(Call((1, 2, 3, 3)))
    with torch.no_grad():
        assert not rda_conv2d(*tensors).requires_grad


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(backend, use_reentrant):
    call = Call((2, 3, 4, 5), output_negative_slope=0.1, dyadic=False)

    def function(*tensors):
        return rda_conv2d(*tensors, output_negative_slope=0.1, backend=backend).square()

    plain, recomputed = leaves(call), leaves(call)
    expected = function(*plain)
    output = checkpoint(function, *recomputed, use_reentrant=use_reentrant)
    assert torch.equal(output, expected)
    output.sum().backward()
    expected.sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain, recomputed, strict=True))
