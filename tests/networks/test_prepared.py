"""Networks prepared for inference are the networks, and their calls do nothing but launch operators."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from mrda.networks import RDAN, MRDAStudent
from mrda_kernels import PackedConv3x3

CONVS = [
    {},
    {"mask_channels": 8, "kernel_size": 5, "dyn_act": "none"},
    {"mask_input": "F1"},
    {"conv_type": "dasr_da"},
    {"conv_type": "static"},
]


def random_rdan(**options):
    torch.manual_seed(0)
    return RDAN(**{"scale": 2, "num_feat": 8, "num_blocks": 2, "idr_dim": 8} | options).eval()


def random_inputs(dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 6, 7, generator=draws).to(dtype), torch.randn(2, 8, generator=draws).to(dtype)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("conv", CONVS)
def test_it_computes_what_the_network_does(scale, conv):
    rdan, inputs = random_rdan(scale=scale, **conv).double(), random_inputs(torch.float64)
    sr = rdan.prepare()(*inputs)
    assert not sr.requires_grad
    # The same float64 arithmetic but for the upscaler's order of sums.
    torch.testing.assert_close(sr, rdan(*inputs).detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("conv", CONVS)
def test_later_changes_of_the_network_have_no_effect(conv):
    rdan, inputs = random_rdan(**conv), random_inputs()
    prepared = rdan.prepare()
    before, plain = prepared(*inputs), rdan(*inputs)
    for parameter in rdan.parameters():
        parameter.data.mul_(1.25)  # as averages of weights are copied, which no version counter sees
    assert torch.equal(prepared(*inputs), before)
    assert not torch.equal(rdan(*inputs), plain)
    torch.testing.assert_close(rdan.prepare()(*inputs), rdan(*inputs).detach(), rtol=1e-5, atol=1e-5)
    rdan.double()
    assert torch.equal(prepared(*inputs), before)


def test_pruned_predictors_are_heeded():
    rdan, inputs = random_rdan(), random_inputs()
    before = rdan.prepare()(*inputs)
    prune.random_unstructured(rdan.blocks[0].rda_conv1.kernel[2], "weight", 0.9)
    sr = rdan.prepare()(*inputs)
    assert not torch.equal(sr, before)
    torch.testing.assert_close(sr, rdan(*inputs).detach(), rtol=1e-5, atol=1e-5)


def tensors(value):
    """Yield all tensors that a prepared network holds, with the names that lead there."""
    if isinstance(value, torch.Tensor):
        yield "", value
    elif isinstance(value, nn.Module):
        yield from (*value.named_parameters(), *value.named_buffers())
    elif isinstance(value, PackedConv3x3):
        yield from (("weight", value.weight), ("packed", value.packed))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)
    elif hasattr(value, "__dict__"):
        for key, part in vars(value).items():
            for name, tensor in tensors(part):
                yield f"{key}.{name}", tensor


@pytest.mark.parametrize("conv", CONVS)
def test_what_all_depends_on_keeps_its_precision(conv):
    rdan = random_rdan(**conv)
    dtypes = {name: tensor.dtype for name, tensor in tensors(rdan.prepare(torch.bfloat16))}
    assert len(dtypes) > 8
    for name, dtype in dtypes.items():
        stays = name.startswith(("mean", "compress", "predict", "upscaler")) or ".kernel." in name
        stays = stays or name.endswith("packed")  # in the dtype of sums
        assert dtype == (torch.float32 if stays else torch.bfloat16), name
    assert {tensor.dtype for _, tensor in tensors(rdan.prepare())} == {torch.float32}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda prepared: pickle.loads(pickle.dumps(prepared))])
def test_it_can_be_copied_and_pickled(again):
    prepared, inputs = random_rdan().prepare(torch.bfloat16), random_inputs()
    assert torch.equal(again(prepared)(*inputs), prepared(*inputs))


def test_a_student_in_half_precision_keeps_the_average_and_the_linear_layers_of_its_den():
    torch.manual_seed(0)
    student, lr = MRDAStudent(scale=2, num_feat=4, num_blocks=1, den_width=16), torch.rand(2, 3, 40, 40)
    den = student.prepare(torch.bfloat16).den
    assert {step.bias.dtype for step in den.convs.steps} == {torch.bfloat16}
    idr, exact = den(lr), student.den.double()(lr.double())
    assert idr.dtype == torch.float32
    assert not torch.equal(idr, idr.bfloat16().float())
    # Six convolutions round to 8 bits, of values that the average makes up for.
    assert (idr - exact).norm() < 2**-7 * exact.norm()


def test_a_prepared_student_reads_the_degradation_or_is_told_it():
    student, lr = MRDAStudent(scale=2, num_feat=4, num_blocks=1, den_width=2), torch.rand(2, 3, 5, 6)
    prepared = student.prepare()
    torch.testing.assert_close(prepared(lr), student(lr).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prepared(lr), prepared(lr, student.degradation(lr)), rtol=1e-5, atol=1e-5)
    assert torch.equal(prepared(lr, torch.ones(2, 8)), student.rdan.prepare()(lr, torch.ones(2, 8)))
    assert not prepared(lr).requires_grad


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda lr, idr: (lr[0], idr), ValueError, "lr has shape"),
        (lambda lr, idr: (lr, idr[:1]), ValueError, r"degradation has shape \(1, 8\), but must be \(2, 8\)"),
        (lambda lr, idr: (lr.double(), idr), TypeError, "lr has dtype torch.float64"),
        (lambda lr, idr: (lr, None), TypeError, "degradation is NoneType, but must be a torch.Tensor"),
    ],
)
def test_wrong_arguments_are_refused_as_by_the_network(change, error, match):
    with pytest.raises(error, match=match):
        random_rdan().prepare()(*change(*random_inputs()))


class CountOperators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.dtypes, self.layouts = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls[str(func)] += 1
        self.dtypes |= {part.dtype for part in (*args, result) if isinstance(part, torch.Tensor)}
        if "rda_conv3x3" in str(func):
            self.layouts |= {part.is_contiguous(memory_format=torch.channels_last) for part in (args[0], result)}
        return result


@pytest.mark.parametrize(("dtype", "operators"), [(torch.float32, 118), (torch.bfloat16, 120)])
def test_a_call_of_the_published_trunk_dispatches_few_operators_and_none_in_float64(dtype, operators):
    """A half block is one of them, and some 30 are views. A CUDA graph captures these, and replays them every time."""
    prepared = RDAN().eval().prepare(dtype)
    lr, degradation = torch.rand(1, 3, 6, 6), torch.randn(1, 256)
    prepared(lr, degradation)
    with CountOperators() as counted:
        prepared(lr, degradation)
    assert counted.calls.total() <= operators, counted.calls
    assert counted.calls["mrda_kernels.rda_conv3x3.default"] == 54
    assert counted.dtypes == {torch.float32, dtype}
    assert counted.layouts == {True}  # though the image is not channels_last


def test_a_call_lists_no_parameters(monkeypatch):
    prepared, inputs = random_rdan().prepare(), random_inputs()

    def refused(*_, **__):
        raise AssertionError("a call went through the parameters")

    for name in ("parameters", "named_parameters", "modules", "state_dict"):
        monkeypatch.setattr(nn.Module, name, refused)
    prepared(*inputs)
