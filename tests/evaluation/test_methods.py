import pytest
import torch
from torch.func import functional_call

from mrda.degradations.kernels import isotropic_gaussian
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import (
    bicubic_method,
    blind_method,
    mln_method,
    oracle_method,
    replaced_idr_method,
    student_method,
    teacher_method,
)
from mrda.evaluation.protocols import conditions
from mrda.evaluation.samples import Condition, make_sample
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, adaptation, lr_with_hr

SIZES = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def sample():
    hr = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    return make_sample(hr, Condition("blur", isotropic_gaussian(1.2)), 2, image="a")


def test_a_replaced_idr_is_that_of_the_same_photo_under_other_conditions():
    network, hr = sensitive(MRDAStudent(**SIZES)), torch.rand(1, 3, 24, 32)
    degradations = conditions("wide", 2)
    samples = [make_sample(hr, condition, 2, image="a", seed=3) for condition in degradations]
    idrs = torch.cat([network.degradation(sample.lr) for sample in samples]).detach()
    mean, other = (replaced_idr_method(network, idr, degradations, 2, seed=3) for idr in ("mean", "other"))
    own = student_method(network)
    for place in (0, 9):
        sample = samples[place]
        for method, idr in ((own, idrs[place]), (mean, idrs.mean(dim=0)), (other, idrs[(place + 7) % 15])):
            expected = network.prepare()(sample.lr, idr[None])
            torch.testing.assert_close(method(sample), expected, rtol=0, atol=1e-5)
        assert (mean(sample) - own(sample)).abs().max() > 1e-3
        assert (other(sample) - own(sample)).abs().max() > 1e-3
    another = make_sample(torch.rand(1, 3, 24, 32), degradations[0], 2, image="a", seed=3)
    assert (mean(another) - mean(samples[0])).abs().max() > 1e-3


def test_a_replaced_idr_needs_conditions_to_choose_from():
    with pytest.raises(ValueError, match="the mean IDR requires conditions to choose from, but the protocol has one"):
        replaced_idr_method(MRDAStudent(**SIZES), "mean", conditions("bicubic", 2), 2)


@pytest.fixture
def mln():
    return MLN(scale=2, num_feat=6, num_body=2).double()


def sensitive(network):
    """A random DEN hardly tells one input from another; louder layers do."""
    with torch.no_grad():
        for parameter in network.den.parameters():
            parameter *= 4
    return network


def adapted(mln, sample, steps, inner_lr, freeze_upscaler):
    """Plain SGD on a copy of the module, written out."""
    copy = MLN(**mln.hyperparameters).double()
    copy.load_state_dict(mln.state_dict())
    for step in range(steps):
        copy.zero_grad()
        (copy(sample.lr.double(), sample.lr_up.double()) - sample.hr.double()).abs().mean().backward()
        with torch.no_grad():
            for name, parameter in copy.named_parameters():
                if not (freeze_upscaler and name.startswith("upscaler")):
                    parameter -= inner_lr[min(step, len(inner_lr) - 1)] * parameter.grad
    return copy.requires_grad_(False)


@pytest.mark.parametrize("border", ["clamp", "mirror"])
def test_bicubic_enlarges_lr(sample, border):
    assert torch.equal(bicubic_method(2, border)(sample), bicubic(sample.lr, 2, border))


def test_blind_methods_and_the_student_see_lr_alone(sample):
    network = MRDAStudent(**SIZES).requires_grad_(False)
    blind = sample._replace(lr_up=None, hr=None, kernel=None, noise_level=None)
    expected = network.prepare()(sample.lr)
    found = student_method(network)(blind)
    assert torch.equal(found, expected)
    assert not student_method(MRDAStudent(**SIZES))(blind).requires_grad
    assert torch.equal(blind_method(network.prepare())(blind), expected)


def test_methods_follow_the_networks_dtype(sample):
    network = MRDAStudent(**SIZES).double().requires_grad_(False)
    assert torch.equal(student_method(network)(sample), network.prepare()(sample.lr.double()))


def test_the_oracle_is_told_the_kernel_and_a_delta_where_there_is_none(sample):
    network = MRDAOracle(blur_size=21, **SIZES).requires_grad_(False)
    upscale = oracle_method(network)
    assert torch.equal(upscale(sample), network(sample.lr, sample.kernel[None].float()))
    delta = torch.zeros(1, 21, 21)
    delta[0, 10, 10] = 1
    sharp = sample._replace(kernel=None)
    assert torch.equal(upscale(sharp), network(sample.lr, delta))
    assert not torch.equal(upscale(sharp), upscale(sample))


@pytest.mark.parametrize("freeze_upscaler", [True, False])
@pytest.mark.parametrize("steps", [0, 3])
def test_the_mln_restores_after_its_adaptation(sample, mln, steps, freeze_upscaler):
    rates = [0.05, 0.02]
    lr, lr_up = sample.lr.double(), sample.lr_up.double()
    before = {name: value.clone() for name, value in mln.state_dict().items()}
    method = mln_method(mln, steps=steps, inner_lr=rates, freeze_upscaler=freeze_upscaler)
    copy = adapted(mln, sample, steps, rates, freeze_upscaler)
    for _ in range(2):  # the first photo leaves nothing behind for the second
        # Float64: no order of summation is 1e-10 off in a few layers.
        torch.testing.assert_close(method(sample), copy(lr, lr_up), rtol=0, atol=1e-10)
    assert all(torch.equal(before[name], value) for name, value in mln.state_dict().items())
    if steps:
        assert (method(sample) - mln(lr, lr_up)).abs().max() > 1e-4


@pytest.mark.parametrize("freeze_upscaler", [True, False])
def test_the_teacher_reads_the_adapted_mlns_features(sample, mln, freeze_upscaler):
    network = sensitive(MRDATeacher(mln_feat=6, **SIZES)).double()
    lr, rates = sample.lr.double(), [0.05, 0.02]

    def restored(steps, freeze_upscaler):
        return network(lr, adapted(mln, sample, steps, rates, freeze_upscaler).features(lr))

    expected = restored(3, freeze_upscaler)
    method = teacher_method(network, mln, steps=3, inner_lr=rates, freeze_upscaler=freeze_upscaler)
    torch.testing.assert_close(method(sample), expected, rtol=0, atol=1e-9)
    for other in (restored(2, freeze_upscaler), restored(3, not freeze_upscaler), network(lr, mln.features(lr))):
        assert (expected - other).abs().max() > 1e-7


def test_a_teacher_may_read_lr_and_hr_themselves(sample):
    network = sensitive(MRDATeacher(den_input="lr_hr", **SIZES))
    expected = network(sample.lr, lr_with_hr(sample.lr, sample.hr))
    torch.testing.assert_close(teacher_method(network, None)(sample), expected)


def test_the_defaults_are_those_of_the_adaptation(sample, mln):
    pair = sample.lr.double(), sample.lr_up.double()
    mln = mln.with_collapsed_upscaler()
    weights = adaptation.adapt(mln, *pair, sample.hr.double())
    with torch.no_grad():
        assert torch.equal(mln_method(mln)(sample), functional_call(mln, weights, pair))
