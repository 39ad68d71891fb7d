"""rda_conv2d and its gradients on every backend, within the error budget."""

import pytest
import torch
from budget import RdaBudget
from calls import Call, a_shape_for, awkward_sizes, for_any_call, many_kernel_sizes_and_dtypes, skip_most_sizes

OPS = torch.ops.mrda_kernels
GRADIENTS = ("grad_input", "grad_weight", "grad_mask_weight", "grad_mask_bias")


def check(call: Call, backend: str) -> None:
    arguments = (*call.tensors(), *call.options)
    budget = RdaBudget(*arguments, exact_z=call.dyadic)
    output = OPS.rda_conv2d(*arguments, backend)
    assert output.dtype == call.dtype
    budget.forward().check(output, "output")

    grad_output = call.grad_output()
    grads = OPS.rda_conv2d_backward(grad_output, *arguments, backend)
    for name, grad, bounded in zip(GRADIENTS, grads, budget.backward(grad_output), strict=True):
        assert grad.dtype == call.dtype
        bounded.check(grad, name)


@pytest.mark.slow_interpreted
def test_any_call_stays_within_the_budget(backend):
    for_any_call(
        lambda call: check(call, backend),
        backend,
        Call((0, 3, 4, 5)),
        Call((2, 0, 4, 5)),
        Call((2, 3, 0, 5), full_mask=True),
        Call((1, 1, 1, 1), kernel_size=7),
    )


@awkward_sizes
def test_sizes_beyond_a_tile(backend, shape, layout, full_mask):
    skip_most_sizes(backend, 1, shape, layout, full_mask)
    check(Call(shape, layout=layout, full_mask=full_mask, output_negative_slope=0.1), backend)


@many_kernel_sizes_and_dtypes
def test_kernel_sizes_and_dtypes_beyond_a_tile(backend, kernel_size, dtype, layout, shape):
    shape = a_shape_for(backend, 1, kernel_size, dtype, layout, shape)
    check(Call(shape, kernel_size, dtype, layout=layout, dyadic=False), backend)
