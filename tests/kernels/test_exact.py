"""If every product and sum is exact, so is the result: equality, no tolerance.

The values are small multiples of 1/8, the slopes powers of two, and mask_weight is 0, which makes the mask
1/2. A tap that is dropped, doubled or out of place, or a pixel that is left out of a sum, changes some bit.
"""

import pytest
import torch
from calls import Call, a_shape_for, awkward_sizes, calls, for_any_call, many_kernel_sizes_and_dtypes, skip_most_sizes

from mrda_kernels import reference
from mrda_kernels.call import RdaCall

OPS = torch.ops.mrda_kernels
GRADIENTS = ("grad_input", "grad_weight", "grad_mask_weight", "grad_mask_bias")


def check_rda(call: Call, backend: str) -> None:
    input, weight, mask_weight, mask_bias = call.tensors()
    mask_weight = torch.zeros_like(mask_weight)
    mask_bias = None if mask_bias is None else torch.zeros_like(mask_bias)
    tensors, grad_output = (input, weight, mask_weight, mask_bias), call.grad_output()
    wide = [None if t is None else t.double() for t in tensors]
    slopes = {"negative_slope": 0.5, "output_negative_slope": 0.25}

    output = OPS.rda_conv2d(*tensors, 0.5, 0.25, backend)
    assert torch.equal(output, reference.rda_conv2d(*wide, **slopes).to(call.dtype))
    grads = OPS.rda_conv2d_backward(grad_output, *tensors, 0.5, 0.25, backend)
    exact = reference.backward(grad_output.double(), RdaCall(*wide, **slopes))
    for name, grad, value in zip(GRADIENTS, grads, exact, strict=True):
        assert torch.equal(grad, value.to(call.dtype)), name


def check_dynamic(call: Call, backend: str) -> None:
    input, weight, *_ = call.tensors()
    grad_output = call.grad_output()
    output = OPS.dynamic_depthwise_conv2d(input, weight, 0.5, backend)
    exact = RdaCall.bare(input.double(), weight.double(), 0.5)
    assert torch.equal(output, reference.forward(exact).to(call.dtype))
    grads = OPS.dynamic_depthwise_conv2d_backward(grad_output, input, weight, 0.5, backend)
    exact_grads = reference.backward(grad_output.double(), exact)
    for name, grad, value in zip(GRADIENTS, grads, exact_grads, strict=False):
        assert torch.equal(grad, value.to(call.dtype)), name


@pytest.mark.slow_interpreted
def test_any_exact_call(backend):
    def check(call):
        check_rda(call, backend)
        check_dynamic(call, backend)

    for_any_call(check, backend, strategy=calls.filter(lambda call: call.dyadic))


@awkward_sizes
def test_sizes_beyond_a_tile(backend, shape, layout, full_mask):
    skip_most_sizes(backend, 0, shape, layout, full_mask)
    call = Call(shape, layout=layout, full_mask=full_mask)
    check_rda(call, backend)
    check_dynamic(call, backend)


@many_kernel_sizes_and_dtypes
def test_kernel_sizes_and_dtypes_beyond_a_tile(backend, kernel_size, dtype, layout, shape):
    shape = a_shape_for(backend, 0, kernel_size, dtype, layout, shape)
    call = Call(shape, kernel_size, dtype, layout=layout)
    check_rda(call, backend)
    check_dynamic(call, backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_every_half_precision_number_goes_through_unchanged(backend, dtype, layout):
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    input = bits.reshape(1, 64, 16, -1)
    if layout == "channels_last":
        input = input.contiguous(memory_format=torch.channels_last)
    identity = torch.ones(1, 64, 1, 1, dtype=dtype)
    output = OPS.dynamic_depthwise_conv2d(input, identity, 1.0, backend)
    torch.testing.assert_close(output, input, rtol=0, atol=0, equal_nan=True)  # infinities and all NaNs, too


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_results_are_rounded_to_nearest_even(backend, dtype):
    # halfway between two neighbours, and a little to either side of it: float32 sums of two terms
    one, last = 1.0, torch.finfo(dtype).eps
    terms = [
        (one, last / 2),
        (one + last, last / 2),
        (one, last * 0.75),
        (one, last * 0.25),
        (one, -last / 4),
    ]
    terms += [(-a, -b) for a, b in terms]
    tiny = torch.finfo(dtype).tiny * last  # the smallest subnormal number
    terms += [(tiny, tiny / 2), (2 * tiny, tiny / 2)] if dtype == torch.float16 else []
    # a pixel and its right neighbour, times weights of 1 and 1/4
    pairs = torch.tensor([(a, 4 * b) for a, b in terms], dtype=torch.float64)
    input = pairs.reshape(1, len(terms), 1, 2).to(dtype)
    assert torch.equal(input.double().flatten(), pairs.flatten())
    weight = torch.zeros(1, len(terms), 3, 3, dtype=dtype)
    weight[..., 1, 1], weight[..., 1, 2] = 1, 0.25
    output = OPS.dynamic_depthwise_conv2d(input, weight, 1.0, backend)[0, :, 0, 0]
    exact = torch.tensor([a + b for a, b in terms], dtype=torch.float32)
    assert torch.equal(output, exact.to(dtype))


@pytest.mark.parametrize("negative_slope", [0.0, 0.5, 1.0])
def test_the_derivative_of_leaky_relu_at_zero_is_the_slope(backend, negative_slope):
    input = torch.ones(1, 1, 2, 8)
    weight = torch.zeros(1, 1, 1, 1)  # z = 0 everywhere
    zeros = torch.zeros(1, 1, 1, 1), torch.zeros(1)  # m = 1/2
    grads = OPS.rda_conv2d_backward(torch.ones_like(input), input, weight, *zeros, negative_slope, None, backend)
    assert torch.equal(grads[1], torch.full((1, 1, 1, 1), 16 * negative_slope / 2))

    input = torch.zeros(1, 1, 2, 8)  # y = 0 everywhere
    grads = OPS.rda_conv2d_backward(torch.ones_like(input), input, weight, *zeros, 0.5, negative_slope, backend)
    assert torch.equal(grads[0], torch.full_like(input, negative_slope))
