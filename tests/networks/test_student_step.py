"""One training step of the full student: the fused operator 54 times each way, and the reference's update."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mrda.networks import MRDAStudent
from mrda_kernels.backends import cpu

RDA_CONVS = 2 * 27  # two in each block
LEARNING_RATE = 100


class CountOperators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mrda_kernels":
            self.calls[func._opname] += 1
        return func(*args, **(kwargs or {}))


def step(dtype, backend, state):
    """The parameters after a step of SGD, and the operators that it called."""
    student = MRDAStudent(scale=4, backend=backend).to(dtype)
    student.load_state_dict(state)
    generator = torch.Generator().manual_seed(1)
    lr = torch.rand(1, 3, 8, 8, generator=generator).to(dtype)
    hr = torch.rand(1, 3, 32, 32, generator=generator).to(dtype)
    optimizer = torch.optim.SGD(student.parameters(), lr=LEARNING_RATE)
    with CountOperators() as counter:
        F.l1_loss(student(lr), hr).backward()
    optimizer.step()
    return {name: p.detach().double() for name, p in student.named_parameters()}, counter.calls


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return MRDAStudent(scale=4).state_dict()


def test_the_fused_operator_is_called_once_per_rda_conv_and_direction(state):
    _, calls = step(torch.float32, None, state)
    assert calls == {"rda_conv2d": RDA_CONVS, "rda_conv2d_backward": RDA_CONVS}


@pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the extension is not built")
def test_the_update_is_the_references_to_rounding(state):
    """Both backends may be off the float64 step by rounding only, hence by about the same.

    The yardstick is what rounding does to the reference itself: its distance from the float64 step, over a
    whole parameter so that single lucky elements do not count. Two sound float32 runs that sum in different
    orders differ by about as much; a factor of 4 leaves room for chance. Besides, storing the result costs
    half a unit in the last place of each element. The step is long, so that all this stays small against the
    update, and a wrong gradient shows.
    """
    exact, _ = step(torch.float64, "reference", state)
    reference, _ = step(torch.float32, "reference", state)
    fused, _ = step(torch.float32, "cpu", state)
    for name, value in exact.items():
        update = (value - state[name].double()).norm()
        storing = torch.finfo(torch.float32).eps / 2 * value.norm()
        granted = 4 * (reference[name] - value).norm() + storing
        assert granted < update / 2, name
        assert (fused[name] - value).norm() <= granted, name
