"""Kernels of the second-order degradation against numpy's and scipy's, and how often which are drawn."""

import math

import pytest
import real_formulas
import torch

from mrda.degradations.real import RoundOptions
from mrda.degradations.real.kernels import FINAL_DRAWS, KERNEL_DRAWS, KernelShapes, draw_final, draw_kernels
from mrda.options.real import FAMILIES

pytest.importorskip("scipy", reason="needs scipy, which comes with scikit-image")

# Torch's J1 is off by up to 5e-7 at arguments t from 5 to 8, and less beyond. A tap has c / (2 pi r) of that, below
# 2e-7; all rings together change the sum by the integral of the error over t, which is about 1e-6.
SINC_ERROR = 1.2e-6


def uniform(rows, count, seed=0):
    return torch.rand(rows, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind()


def shapes(count, seed=0, **options):
    return draw_kernels(RoundOptions(**options), uniform(KERNEL_DRAWS, count, seed))


def by_definition(shapes, index):
    family, size = int(shapes.family[index]), int(shapes.size[index])
    if family == len(FAMILIES):
        return real_formulas.sinc(size, float(shapes.cutoff[index]), shapes.side)
    parameters = (float(getattr(shapes, name)[index]) for name in ("sigma1", "sigma2", "theta", "beta"))
    return real_formulas.kernel(FAMILIES[family], size, *parameters, shapes.side)


@pytest.mark.parametrize("largest", [7, 13, 21, 25])
def test_kernels_equal_their_formulas(largest):
    drawn = shapes(80, blur_kernel_size=largest, sinc_prob=0.3)
    assert len(set(drawn.family.tolist())) == len(FAMILIES) + 1
    kernels = drawn.kernels()
    assert kernels.shape == (80, largest, largest)
    assert kernels.dtype == torch.float64
    for index in range(80):
        # The covariance of widths 0.2 and 3 has a condition of 225, and an error in an exponent counts 1/e times.
        error = 1e-12 if drawn.family[index] < len(FAMILIES) else SINC_ERROR
        expected = torch.from_numpy(by_definition(drawn, index))
        torch.testing.assert_close(kernels[index], expected, rtol=0, atol=error)


def test_kernels_equal_themselves_rotated():
    kernels = shapes(200).kernels()
    assert torch.equal(kernels, kernels.flip(1, 2))
    torch.testing.assert_close(kernels.sum(dim=(1, 2)), torch.ones(200).double(), rtol=0, atol=1e-14)


def close_to(share, probability, count):
    """Within five standard errors."""
    return abs(float(share) - probability) <= 5 * math.sqrt(probability * (1 - probability) / count)


def test_how_often_each_family_and_size_is_drawn():
    count = 20_000
    drawn = shapes(count)
    assert close_to((drawn.family == len(FAMILIES)).double().mean(), 0.1, count)
    for number, probability in enumerate((0.45, 0.25, 0.12, 0.03, 0.12, 0.03)):
        assert close_to((drawn.family == number).double().mean(), 0.9 * probability, count)
    for size in range(7, 22, 2):
        assert close_to((drawn.size == size).double().mean(), 1 / 8, count)
    assert set(drawn.size.tolist()) == set(range(7, 22, 2))


def test_families_by_name_and_weight():
    drawn = shapes(5000, kernel_list=("plateau_aniso", "iso", "plateau_aniso"), kernel_prob=(1, 2, 1), sinc_prob=0)
    assert set(drawn.family.tolist()) == {0, 5}
    assert close_to((drawn.family == 0).double().mean(), 0.5, 5000)
    for index, family in enumerate(FAMILIES):
        only = shapes(50, kernel_list=FAMILIES, kernel_prob=[float(other == family) for other in FAMILIES], sinc_prob=0)
        assert set(only.family.tolist()) == {index}
    assert set(shapes(50, sinc_prob=1.0).family.tolist()) == {len(FAMILIES)}


def test_ranges_of_the_parameters():
    drawn = shapes(20_000, blur_sigma=(0.5, 2.5))
    isotropic, shape = (drawn.family % 2 == 0) & (drawn.family < 6), drawn.family // 2
    for sigma in (drawn.sigma1, drawn.sigma2):
        assert 0.5 <= sigma.min() < 0.51
        assert 2.49 < sigma.max() < 2.5
    assert torch.equal(drawn.sigma1[isotropic], drawn.sigma2[isotropic])
    assert not drawn.theta[isotropic].any()
    turned = drawn.theta[drawn.family % 2 == 1]
    assert -math.pi <= turned.min() < -3.1
    assert 3.1 < turned.max() < math.pi
    sinc, small = drawn.family == 6, drawn.size < 13
    assert math.pi / 3 <= drawn.cutoff[sinc & small].min() < math.pi / 3 + 0.02
    assert math.pi / 5 <= drawn.cutoff[sinc & ~small].min() < math.pi / 5 + 0.02
    assert drawn.cutoff[sinc & (drawn.size == 13)].min() < math.pi / 3 - 0.2
    assert math.pi - 0.02 < drawn.cutoff[sinc].max() < math.pi
    generalized, plateau = drawn.beta[shape == 1], drawn.beta[shape == 2]
    assert (drawn.beta[shape == 0] == 1).all()
    assert 0.5 <= generalized.min() < 0.52
    assert 3.95 < generalized.max() < 4
    assert close_to((generalized < 1).double().mean(), 0.5, len(generalized))
    assert close_to((plateau == 1).double().mean(), 0.5, len(plateau))  # the range begins there
    assert 1.95 < plateau.max() < 2


@pytest.mark.parametrize("bounds", [(1.5, 3.0), (0.25, 0.75)])
def test_exponents_beyond_1_fill_their_range(bounds):
    drawn = shapes(5000, kernel_list=("generalized_iso",), kernel_prob=(1,), betag_range=bounds, sinc_prob=0).beta
    low, high = bounds
    assert low <= drawn.min() < drawn.max() < high
    middle = (low + high) / 2
    assert close_to((drawn < middle).double().mean(), 0.5, 5000)


def test_final_filters():
    count = 5000
    drawn = draw_final(0.8, uniform(FINAL_DRAWS, count))
    used = drawn.size > 1
    assert close_to(used.double().mean(), 0.8, count)
    assert set(drawn.size[used].tolist()) == set(range(7, 22, 2))
    assert math.pi / 3 <= drawn.cutoff.min()
    assert drawn.cutoff.max() < math.pi
    kernels = drawn.kernels()
    delta = torch.zeros(21, 21, dtype=torch.float64)
    delta[10, 10] = 1
    assert all(torch.equal(kernel, delta) for kernel in kernels[~used])
    first = int(used.nonzero()[0])
    expected = real_formulas.sinc(int(drawn.size[first]), float(drawn.cutoff[first]))
    torch.testing.assert_close(kernels[first], torch.from_numpy(expected), rtol=0, atol=SINC_ERROR)


def test_descriptions():
    one = torch.ones(1, dtype=torch.float64)

    def describe(family, size=9):
        number = torch.tensor([family])
        sizes = torch.tensor([size])
        return KernelShapes(number, sizes, 1.5 * one, 0.5 * one, math.pi / 6 * one, 0.7 * one, 2 * one, 21).describe()

    assert describe(0) == "iso 9x9, sigma 1.50"
    assert describe(1) == "aniso 9x9, sigma 1.50 x 0.50 at 30 degrees"
    assert describe(2) == "generalized iso 9x9, sigma 1.50, beta 0.70"
    assert describe(5) == "plateau aniso 9x9, sigma 1.50 x 0.50 at 30 degrees, beta 0.70"
    assert describe(6) == "sinc 9x9, cutoff 2.00"
    assert describe(6, size=1) == "none"
