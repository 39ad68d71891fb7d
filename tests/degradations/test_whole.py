"""Every kernel of the test sets, through the whole degradation, against formulas in numpy and scipy."""

import math

import formulas
import numpy as np
import pytest
import torch

from mrda.degradations import ClassicDegradation, ClassicOptions, anisotropic_gaussian, degrade, isotropic_gaussian
from mrda.degradations.classic import _blur

pytest.importorskip("scipy", reason="needs scipy, which comes with scikit-image")

EPS = np.finfo(np.float64).eps

ISOTROPIC = [(scale, sigma) for scale, sigmas in formulas.GAUSSIAN8.items() for sigma in sigmas]
ANISOTROPIC = sorted({*formulas.MRDA9, *formulas.DASR9})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def radians(degrees):
    return math.pi * degrees / 180


def photo(batch=1, height=36, width=48, seed=0):
    """A few waves with noise that fill [0, 1], so that the blur leaves contrast and some pixels clip."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows * generator.random() + columns * generator.random() + i) for i in range(3 * batch)]
    image = 0.5 + 0.6 * np.stack(waves) + 0.3 * (generator.random((3 * batch, height, width)) - 0.5)
    return np.clip(image, 0, 1).reshape(batch, 3, height, width)


def kernel_budget(l1, l2, peak):
    # The exponent carries a relative error of some 16 eps, times the condition of the covariance for its inverse; an
    # error d in the exponent z is z*exp(-z)*d <= d/e in the kernel's peak.
    return 16 * EPS * (max(l1, l2) / min(l1, l2)) ** 2 * peak


def assert_same_levels(got, expected):
    """The 8-bit image ``got`` is the rounding of ``expected``.

    All of it is float64: two blurs or resamplings of 441 and at most 18 x 18 terms differ by less than 2000 eps, 1e-10
    levels. A number within 1e-9 levels of a tie may round either way; none of these random ones is.
    """
    levels = np.clip(255 * expected, 0, 255)
    assert (np.abs(levels - np.floor(levels) - 0.5) > 1e-9).all()
    np.testing.assert_array_equal(np.rint(255 * got.numpy()), np.rint(levels))
    np.testing.assert_allclose(got.numpy(), formulas.quantise(expected), rtol=0, atol=2 * EPS)


@pytest.mark.parametrize(("scale", "sigma"), ISOTROPIC)
def test_gaussian8(scale, sigma):
    expected = formulas.isotropic(sigma)
    kernel = isotropic_gaussian(torch.tensor([sigma], dtype=torch.float64))
    np.testing.assert_allclose(kernel[0].numpy(), expected, rtol=0, atol=kernel_budget(1, 1, expected.max()))
    # What the float call gives is that kernel, rounded once: half a float32 eps of the peak at most.
    np.testing.assert_allclose(isotropic_gaussian(sigma).numpy(), expected, rtol=0, atol=2**-24 * expected.max())

    hr = photo()
    lr = formulas.bicubic(formulas.blur(hr[0], expected)[None], 1 / scale)
    degraded = degrade(torch.from_numpy(hr), kernel, scale)
    assert_same_levels(degraded.lr, lr)
    assert_same_levels(degraded.lr_up, formulas.bicubic(lr, scale))


@pytest.mark.parametrize(("l1", "l2", "degrees"), ANISOTROPIC)
def test_anisotropic_sets(l1, l2, degrees):
    theta = radians(degrees)
    expected = formulas.anisotropic(l1, l2, theta)
    kernel = anisotropic_gaussian(*(torch.tensor([value], dtype=torch.float64) for value in (l1, l2, theta)))
    np.testing.assert_allclose(kernel[0].numpy(), expected, rtol=0, atol=kernel_budget(l1, l2, expected.max()))

    hr = photo()
    lr = formulas.bicubic(formulas.blur(hr[0], expected)[None], 1 / 4)
    for options, enlarged in (
        ({}, formulas.bicubic(lr, 4)),
        ({"lr_up_from": "raw"}, formulas.bicubic(lr, 4)),
        ({"lr_up_from": "quantised"}, formulas.bicubic(formulas.quantise(lr), 4)),
    ):
        degraded = degrade(torch.from_numpy(hr), kernel, 4, **options)
        assert_same_levels(degraded.lr, lr)
        assert_same_levels(degraded.lr_up, enlarged)


@pytest.mark.parametrize("seed", range(6))
def test_random_kernels_one_per_image(seed):
    generator = np.random.default_rng(seed)
    scale, batch = (2, 3, 4)[seed % 3], 3
    widths, thetas = generator.uniform(0.2, 4, (2, batch)), generator.uniform(0, math.pi, batch)
    kernels = anisotropic_gaussian(*(torch.from_numpy(values) for values in (*widths, thetas)))
    expected = [formulas.anisotropic(*values) for values in zip(*widths, thetas, strict=True)]
    for got, kernel, l1, l2 in zip(kernels, expected, *widths, strict=True):
        np.testing.assert_allclose(got.numpy(), kernel, rtol=0, atol=kernel_budget(l1, l2, kernel.max()))

    hr = photo(batch, seed=seed)
    blurred = np.stack([formulas.blur(image, kernel) for image, kernel in zip(hr, expected, strict=True)])
    # 441 products of numbers below 1 with weights that sum to 1, and those weights' own errors.
    errors = sum(kernel_budget(l1, l2, 1) for l1, l2 in widths.T)
    np.testing.assert_allclose(
        _blur(torch.from_numpy(hr), kernels).numpy(), blurred, rtol=0, atol=441 * (2 * EPS + errors)
    )
    assert_same_levels(degrade(torch.from_numpy(hr), kernels, scale).lr, formulas.bicubic(blurred, 1 / scale))
    folded = degrade(torch.from_numpy(hr), kernels, scale, downsample="sfold").lr
    assert_same_levels(folded, blurred[..., ::scale, ::scale])
    mirrored = degrade(torch.from_numpy(hr), kernels, scale, border="mirror").lr
    assert_same_levels(mirrored, formulas.bicubic(blurred, 1 / scale, "mirror"))


def test_drawn_parameters_lead_to_the_formulas():
    hr = torch.from_numpy(photo(2))
    degradation = ClassicDegradation(4, ClassicOptions(kernel="anisotropic", per="image", lr_up_from="quantised"))
    degraded = degradation(hr, seeded(3))
    generator = seeded(3)
    l1, l2, turn = (torch.rand(2, generator=generator, dtype=torch.float64).numpy() for _ in range(3))
    expected = [
        formulas.anisotropic(*values) for values in zip(0.2 + 3.8 * l1, 0.2 + 3.8 * l2, math.pi * turn, strict=True)
    ]
    lr = formulas.bicubic(np.stack([formulas.blur(*pair) for pair in zip(hr.numpy(), expected, strict=True)]), 1 / 4)
    assert_same_levels(degraded.lr, lr)
    assert_same_levels(degraded.lr_up, formulas.bicubic(formulas.quantise(lr), 4))


@pytest.mark.parametrize("level", [5.0, 10.0, 25.0])
def test_the_noise_is_gaussian_white_and_of_the_given_level(level):
    hr = torch.full((4, 3, 256, 256), 0.5, dtype=torch.float64)
    lr = degrade(hr, None, 2, noise_level=level, generator=seeded(int(level))).lr.numpy()
    noise = 255 * lr - 127.5
    n = noise.size
    # Five standard errors each. Rounding to whole levels adds 1/12 to the variance.
    variance = level**2 + 1 / 12
    assert abs(noise.mean()) < 5 * math.sqrt(variance / n)
    assert abs(noise.var() - variance) < 5 * variance * math.sqrt(2 / n)
    standard = noise / math.sqrt(variance)
    assert abs((standard**3).mean()) < 5 * math.sqrt(15 / n)
    # The rounding's own fourth moment shifts that of the sum by less than (1/12)^2 / variance^2.
    assert abs((standard**4).mean() - 3) < 5 * math.sqrt(96 / n) + 1 / 144 / variance**2
    for first, second in (
        (standard[:, 0], standard[:, 1]),  # colour noise: the channels are independent
        (standard[:, 0], standard[:, 2]),
        (standard[..., 1:], standard[..., :-1]),
        (standard[..., 1:, :], standard[..., :-1, :]),
        (standard[1:], standard[:-1]),
    ):
        assert abs((first * second).mean()) < 5 / math.sqrt(first.size)


def test_the_level_of_the_noise_is_drawn_uniformly_per_image():
    hr = torch.full((400, 3, 2, 2), 0.5)
    levels = ClassicDegradation(2, ClassicOptions(kernel="none", per="image", noise_range=(0, 25)))(
        hr, seeded()
    ).noise_level
    # Mean and standard deviation of 400 uniform draws, to five standard errors.
    assert abs(levels.mean() - 12.5) < 5 * 25 / math.sqrt(12 * 400)
    assert abs(levels.var() - 25**2 / 12) < 5 * 25**2 * math.sqrt(1 / 180 / 400)
