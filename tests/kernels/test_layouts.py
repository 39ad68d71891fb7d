"""The memory format of results, on real and on fake tensors, and inputs of any strides."""

import pytest
import torch
from calls import LAYOUTS, Call, skip_if_interpreted

from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d

OPS = torch.ops.mrda_kernels
CHANNELS_LAST = {"channels_last", "channels_last_offset"}
GRAD_LAYOUTS = ("nchw", "channels_last", "expanded")


def results(call, backend, device=None):
    device = device or torch.get_default_device()
    input, *small = (None if t is None else t.to(device) for t in call.tensors())
    if device == "meta":  # .to() may change strides
        real = call.tensors()[0]
        input = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="meta")
    grad_output = call.grad_output().to(device)
    yield OPS.rda_conv2d(input, *small, *call.options, backend)
    yield OPS.rda_conv2d_backward(grad_output, input, *small, *call.options, backend)[0]
    yield OPS.dynamic_depthwise_conv2d(input, small[0], 0.1, backend)
    yield OPS.dynamic_depthwise_conv2d_backward(grad_output, input, small[0], 0.1, backend)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", GRAD_LAYOUTS)
def test_results_are_channels_last_only_where_the_input_is(backend, layout, grad_layout):
    skip_if_interpreted(backend, grad_layout != GRAD_LAYOUTS[list(LAYOUTS).index(layout) % 3])
    call = Call((2, 3, 4, 5), layout=layout, grad_layout=grad_layout)
    expected = torch.channels_last if layout in CHANNELS_LAST else torch.contiguous_format
    for real, fake in zip(results(call, backend), results(call, backend, "meta"), strict=True):
        assert real.is_contiguous(memory_format=expected)
        assert fake.shape == real.shape
        assert fake.dtype == real.dtype
        assert fake.stride() == real.stride()


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 3, 1, 1), (1, 1, 1, 1), (0, 3, 4, 5), (2, 3, 0, 5)])
def test_an_input_that_is_contiguous_either_way_gives_nchw(backend, shape):
    call = Call(shape, layout="channels_last")
    for real, fake in zip(results(call, backend), results(call, backend, "meta"), strict=True):
        assert real.is_contiguous()
        assert fake.stride() == real.stride()


@pytest.mark.parametrize("size", [1, 3])
def test_small_tensors_of_any_strides_are_served(backend, size):
    input, weight, mask_weight, mask_bias = Call((2, 3, 4, 5), kernel_size=size, full_mask=True).tensors()

    def strided(t):
        storage = t.new_full([2 * n for n in t.shape], float("nan"))
        return storage[tuple(slice(None, None, 2) for _ in t.shape)].copy_(t)

    small = (weight, mask_weight, mask_bias)
    expected = rda_conv2d(input, *small, backend=backend)
    assert torch.equal(rda_conv2d(input, *map(strided, small), backend=backend), expected)
    shared = weight[:1, :1].expand_as(weight)  # one kernel for all
    assert torch.equal(
        dynamic_depthwise_conv2d(input, shared, backend=backend),
        dynamic_depthwise_conv2d(input, shared.contiguous(), backend=backend),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_are_left_as_they_were(backend, layout):
    call = Call((2, 3, 4, 5), layout=layout, grad_layout=layout)
    tensors, grad_output = call.tensors(), call.grad_output()
    before = [t.clone() for t in (*tensors, grad_output)]
    OPS.rda_conv2d(*tensors, *call.options, backend)
    OPS.rda_conv2d_backward(grad_output, *tensors, *call.options, backend)
    assert all(torch.equal(t, old) for t, old in zip((*tensors, grad_output), before, strict=True))
