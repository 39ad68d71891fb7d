"""dynamic_depthwise_conv2d and its gradients on every backend, within the error budget."""

import pytest
import torch
import torch.nn.functional as F
from budget import dynamic_backward, dynamic_forward
from calls import Call, for_any_call

from mrda_kernels import dynamic_depthwise_conv2d

OPS = torch.ops.mrda_kernels


def check(call, backend):
    input, weight, *_ = call.tensors()
    slope = call.negative_slope
    output = OPS.dynamic_depthwise_conv2d(input, weight, slope, backend)
    dynamic_forward(input, weight, slope).check(output, "output")
    grad_output = call.grad_output()
    grads = OPS.dynamic_depthwise_conv2d_backward(grad_output, input, weight, slope, backend)
    exact = dynamic_backward(grad_output, input, weight, slope, exact_z=call.dyadic)
    for name, grad, bounded in zip(("grad_input", "grad_weight"), grads, exact, strict=True):
        assert grad.dtype == call.dtype
        bounded.check(grad, name)


@pytest.mark.slow_interpreted
def test_any_call_stays_within_the_budget(backend):
    for_any_call(
        lambda call: check(call, backend),
        backend,
        Call((0, 3, 4, 5)),
        Call((2, 0, 4, 5)),
        Call((1, 18, 35, 67), dyadic=False, layout="channels_last"),
        Call((1, 18, 35, 67), dyadic=False, negative_slope=1.0),
    )


def test_equals_the_grouped_convolution_of_its_docstring(backend):
    # written out here once more, independent of the reference; all values are exact
    input, weight, *_ = Call((2, 3, 9, 7), kernel_size=5).tensors()
    grouped = F.conv2d(input.view(1, 6, 9, 7), weight.view(6, 1, 5, 5), padding=2, groups=6)
    assert torch.equal(dynamic_depthwise_conv2d(input, weight, backend=backend), grouped.view(2, 3, 9, 7))
    activated = dynamic_depthwise_conv2d(input, weight, negative_slope=0.25, backend=backend)
    assert torch.equal(activated, F.leaky_relu(grouped, 0.25).view(2, 3, 9, 7))
