"""torch.library's own checks of the four operators: schemas, fake kernels, autograd, AOT dispatch."""

import pytest
import torch
from calls import Call

OPS = torch.ops.mrda_kernels


CALLS = {
    "nchw": Call((2, 3, 4, 5)),
    "channels_last": Call((2, 3, 4, 5), layout="channels_last", output_negative_slope=0.1),
    "one mask per channel, no bias": Call((2, 3, 4, 5), full_mask=True, bias=False),
    "strided": Call((2, 3, 4, 5), layout="step2", grad_layout="channels_last"),
    "bfloat16": Call((1, 2, 3, 3), kernel_size=1, dtype=torch.bfloat16, layout="channels_last"),
    "empty": Call((0, 3, 4, 5)),
}


def tensors(call):
    return [None if t is None else t.requires_grad_() for t in call.tensors()]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_rda_conv2d(call):
    torch.library.opcheck(OPS.rda_conv2d.default, (*tensors(call), *call.options, None))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_rda_conv2d_backward(call):
    grad_output = call.grad_output().requires_grad_()
    torch.library.opcheck(OPS.rda_conv2d_backward.default, (grad_output, *tensors(call), *call.options, None))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_dynamic_depthwise_conv2d(call):
    torch.library.opcheck(OPS.dynamic_depthwise_conv2d.default, (*tensors(call)[:2], call.negative_slope, None))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_dynamic_depthwise_conv2d_backward(call):
    grad_output = call.grad_output().requires_grad_()
    torch.library.opcheck(
        OPS.dynamic_depthwise_conv2d_backward.default, (grad_output, *tensors(call)[:2], call.negative_slope, None)
    )


def test_the_reference_backend():
    call = CALLS["channels_last"]
    grad_output = call.grad_output().requires_grad_()
    torch.library.opcheck(OPS.rda_conv2d.default, (*tensors(call), *call.options, "reference"))
    torch.library.opcheck(OPS.rda_conv2d_backward.default, (grad_output, *tensors(call), *call.options, "reference"))
