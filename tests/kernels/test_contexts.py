"""A call gives the same bits whatever context its caller is in."""

import contextlib
from dataclasses import replace

import pytest
import torch
from calls import KERNEL_SIZES, LAYOUTS, Call, interpreted
from contexts import AUTOCAST, CONTEXTS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d
from mrda_kernels.call import DTYPES

calls = st.builds(
    Call,
    # channels: few, more than a float32 or float64 kernel sums, and more than a half precision one does
    shape=st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 8, 70, 130, 260]), st.integers(1, 2), st.integers(1, 2)),
    kernel_size=st.sampled_from(KERNEL_SIZES),
    dtype=st.sampled_from(DTYPES),
    full_mask=st.booleans(),
    bias=st.booleans(),
    output_negative_slope=st.sampled_from([None, 0.1]),
    layout=st.sampled_from(list(LAYOUTS)),
    dyadic=st.just(False),
)


def results(tensors, grad_output, call, backend, bare, where):
    """Return a call's result and, if it is recorded, its gradients; `where` has a context for each of the passes."""
    forward, backward = where
    with forward():
        if bare:
            tensors = tensors[:2]
            output = dynamic_depthwise_conv2d(*tensors, backend=backend)
        else:
            output = rda_conv2d(*tensors, output_negative_slope=call.output_negative_slope, backend=backend)
    if not output.requires_grad:
        return [output]
    wanted = [t for t in tensors if t is not None]
    with backward():
        return [output.detach(), *torch.autograd.grad(output, wanted, grad_output.to(output.dtype))]


def leaves(tensors):
    return [None if t is None else t.detach().requires_grad_() for t in tensors]


def check(call, backend, name, parts, bare):
    """Compare the call inside and outside of the context; an autocast region has cast the tensors before."""
    context = CONTEXTS[name]
    where = [context if part in parts else contextlib.nullcontext for part in ("forward", "backward")]
    tensors, grad_output = call.tensors(), call.grad_output()
    dtype = AUTOCAST.get(name) if "forward" in parts and call.dtype != torch.float64 else None
    outside = [None if t is None else t.to(dtype or t.dtype) for t in tensors]
    found = results(leaves(tensors), grad_output, call, backend, bare, where)
    expected = results(leaves(outside), grad_output, call, backend, bare, [contextlib.nullcontext] * 2)
    for got, right in zip(found, expected, strict=False):  # no gradients if the context records none
        assert got.device == right.device
        assert torch.equal(got, right.to(got.dtype))
    assert found[0].dtype == (dtype or call.dtype)
    assert found[0].stride() == expected[0].stride()


AUTOCAST_EXAMPLES = [  # the mask is a matrix product of torch's: in both passes, in both, in the backward
    (Call((1, 4, 2, 2), full_mask=True, dyadic=False), ("autocast to bfloat16", "forward, backward"), False),
    (Call((1, 260, 1, 2), 5, dyadic=False), ("autocast to bfloat16", "forward, backward"), False),
    (Call((1, 130, 1, 2), 7, dyadic=False), ("autocast to float16", "backward"), False),
]
NUMBERS = {"triton": 4, "cuda-emulated": 20}
"""Random examples, for backends that take long over one; 60 for the others."""


@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning")
def test_a_context_changes_nothing(backend):
    slow = interpreted(backend)
    for_gradients = [name for name in CONTEXTS if name != "inference"]  # which torch refuses to take gradients in
    contexts = st.one_of(
        st.tuples(st.sampled_from(for_gradients), st.sampled_from(["forward", "backward", "forward, backward"])),
        st.tuples(st.just("inference"), st.just("forward")),
    )

    def property_(call, context, bare):
        if slow and call.shape[1] > 8:
            call = replace(call, shape=(1, 4, 2, 2), kernel_size=1)
        check(call, backend, *context, bare)

    for case in AUTOCAST_EXAMPLES[: 1 if slow else None]:
        property_ = example(*case)(property_)
    settings(max_examples=NUMBERS.get(backend, 60))(
        given(calls, contexts, st.sampled_from([False, False, False, True]))(property_)
    )()


@pytest.mark.parametrize("full_mask", [False, True])
def test_second_derivatives_in_an_autocast_region(backend, full_mask):
    """The operators' own second derivatives are matrix products of torch's, too."""
    call = Call((1, 4, 2, 2), 1, dtype=torch.bfloat16, full_mask=full_mask, dyadic=False)
    found = []
    for context in (contextlib.nullcontext, CONTEXTS["autocast to bfloat16"]):
        tensors = leaves(call.tensors())
        output = rda_conv2d(*tensors, backend=backend)
        grads = torch.autograd.grad(output, tensors, call.grad_output(), create_graph=True)
        with context():
            found.append(torch.autograd.grad(grads, tensors, grads, allow_unused=True))
    for inside, outside in zip(*found, strict=True):
        assert (inside is None and outside is None) or torch.equal(inside, outside)
