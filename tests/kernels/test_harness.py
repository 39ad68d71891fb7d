"""The tests' own instruments can fail: a backend with a planted fault does not pass them."""

import pytest
import torch
from budget import RdaBudget
from calls import Call

from mrda_kernels import dispatch, reference
from mrda_kernels.call import RdaCall

OPS = torch.ops.mrda_kernels
CALL = Call((2, 3, 6, 7), dyadic=False)


def drop_a_border_tap(output, input, weight):
    """The last tap of the first row's pixels is missing, wherever it is inside the image."""
    z = reference.forward(RdaCall.bare(input, weight))
    less = weight.clone()
    less[..., 2, 2] = 0
    output[:, :, 0] += (reference.forward(RdaCall.bare(input, less)) - z)[:, :, 0]


def leave_an_element_unwritten(output, input, weight):
    output[-1, -1, -1, -1] = torch.empty(1, dtype=output.dtype)[0]


def use_the_neighbours_kernel(output, input, weight):
    output.copy_(reference.forward(RdaCall.bare(input, weight.roll(1, dims=1))))


@pytest.mark.parametrize("fault", [drop_a_border_tap, leave_an_element_unwritten, use_the_neighbours_kernel])
def test_a_faulty_backend_is_caught(monkeypatch, fault):
    faulty = dispatch.load("reference")
    right = faulty.forward

    def forward(call):
        output = right(call)
        fault(output, call.input, call.weight)
        return output

    arguments = (*CALL.tensors(), *CALL.options)
    budget = RdaBudget(*arguments, exact_z=False)
    budget.forward().check(OPS.rda_conv2d(*arguments, "reference"), "output")
    monkeypatch.setattr(faulty, "forward", forward)
    with pytest.raises(AssertionError, match="times the error bound"):
        budget.forward().check(OPS.rda_conv2d(*arguments, "reference"), "output")
