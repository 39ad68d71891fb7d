import pytest
import torch

from mrda.core.randomness import generator
from mrda.degradations.classic import degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.evaluation.samples import Condition, make_sample

NOISY = Condition("k1 noise=20", isotropic_gaussian(1.5), 20.0)
CLEAN = Condition("sigma=1.5", isotropic_gaussian(1.5))


@pytest.fixture
def hr():
    return torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def test_a_sample_is_the_degradation_with_noise_of_seed_photo_and_condition(hr):
    sample = make_sample(hr, NOISY, 2, image="cat", seed=5)
    noise = generator(5, "evaluation", "cat", "k1 noise=20")
    pair = degrade(hr, NOISY.kernel, 2, noise_level=20.0, generator=noise)
    assert torch.equal(sample.lr, pair.lr)
    assert torch.equal(sample.lr_up, pair.lr_up)
    assert sample.hr is hr
    assert sample.kernel is NOISY.kernel
    assert sample.noise_level == 20


@pytest.mark.parametrize(
    "other",
    [
        {"image": "dog"},
        {"seed": 6},
        {"condition": NOISY._replace(name="k2 noise=20")},
    ],
)
def test_the_noise_is_another_for_another_photo_seed_or_condition(hr, other):
    options = {"condition": NOISY, "image": "cat", "seed": 5}
    first = make_sample(hr, scale=2, **options)
    assert torch.equal(make_sample(hr, scale=2, **options).lr, first.lr)
    assert not torch.equal(make_sample(hr, scale=2, **{**options, **other}).lr, first.lr)


@pytest.mark.parametrize("options", [{"downsample": "sfold"}, {"border": "mirror"}, {"lr_up_from": "quantised"}])
def test_options_reach_the_degradation(hr, options):
    sample = make_sample(hr, CLEAN, 4, image="cat", **options)
    pair = degrade(hr, CLEAN.kernel, 4, **options)
    assert torch.equal(sample.lr, pair.lr)
    assert torch.equal(sample.lr_up, pair.lr_up)
    plain = make_sample(hr, CLEAN, 4, image="cat")
    assert not (torch.equal(sample.lr, plain.lr) and torch.equal(sample.lr_up, plain.lr_up))
