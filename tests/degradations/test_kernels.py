import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrda.degradations import anisotropic_gaussian, isotropic_gaussian

EPS64 = np.finfo(np.float64).eps


def by_covariance(l1, l2, theta, size):
    """The kernel by matrix algebra, point by point."""
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    inverse = np.linalg.inv(rotation @ np.diag([l1**2, l2**2]) @ rotation.T)
    kernel = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            v = np.array([column - size // 2, row - size // 2])
            kernel[row, column] = math.exp(-0.5 * v @ inverse @ v)
    return kernel / kernel.sum()


@given(
    l1=st.floats(0.2, 4.0),
    l2=st.floats(0.2, 4.0),
    theta=st.floats(-math.pi, math.pi),
    size=st.sampled_from([1, 7, 21]),
)
def test_anisotropic_kernels_follow_the_covariance(l1, l2, theta, size):
    vectors = [torch.tensor([value], dtype=torch.float64) for value in (l1, l2, theta)]
    got = anisotropic_gaussian(*vectors, size=size)[0].numpy()
    expected = by_covariance(l1, l2, theta, size)
    # The exponent carries a relative error of some 16 eps, times the condition of the covariance for the
    # inverse; an error d in the exponent z is z*exp(-z)*d <= d/e in the kernel's peak.
    condition = (max(l1, l2) / min(l1, l2)) ** 2
    np.testing.assert_allclose(got, expected, rtol=0, atol=16 * EPS64 * condition * expected.max())


@given(sigma=st.floats(0.2, 4.0))
def test_isotropic_kernels_follow_the_formula(sigma):
    x = np.arange(-10, 11)
    expected = np.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / (2 * sigma**2))
    expected /= expected.sum()
    got = isotropic_gaussian(torch.tensor([sigma], dtype=torch.float64))[0].numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=16 * EPS64 * expected.max())


def test_theta_zero_elongates_along_x_and_grows_towards_positive_y():
    center = 10
    along_x = anisotropic_gaussian(4.0, 1.0, 0.0)
    assert along_x[center, center + 4] > 100 * along_x[center + 4, center]
    along_y = anisotropic_gaussian(4.0, 1.0, math.pi / 2)
    assert along_y[center + 4, center] > 100 * along_y[center, center + 4]
    diagonal = anisotropic_gaussian(4.0, 1.0, math.pi / 4)
    assert diagonal[center + 3, center + 3] > 100 * diagonal[center + 3, center - 3]


def test_kernels_sum_to_one_and_are_symmetric():
    kernels = anisotropic_gaussian(*(torch.tensor(v) for v in ([0.2, 4.0], [3.0, 0.5], [0.3, 2.0])))
    assert kernels.shape == (2, 21, 21)
    assert kernels.dtype == torch.float32
    # 441 numbers, each rounded once to float32, that sum to 1.
    torch.testing.assert_close(kernels.sum(dim=(1, 2)), torch.ones(2), rtol=0, atol=441 * 2**-24)
    torch.testing.assert_close(kernels, kernels.flip(1, 2), rtol=2**-22, atol=0)


@pytest.mark.parametrize("size", [1, 5, 21])
@pytest.mark.parametrize("sigma", [0.0, 0, 1e-300, 1e-5])
def test_no_width_gives_a_delta(sigma, size):
    delta = torch.zeros(size, size)
    delta[size // 2, size // 2] = 1
    assert torch.equal(isotropic_gaussian(sigma, size), delta)
    assert torch.equal(anisotropic_gaussian(sigma, sigma, 0.7, size), delta)


def test_one_width_of_zero_keeps_the_axis():
    kernel = anisotropic_gaussian(2.0, 0.0, 0.0)
    assert (kernel[10] > 0).all()
    assert kernel.sum() == kernel[10].sum()


def test_tensors_and_floats_agree():
    assert torch.equal(isotropic_gaussian(torch.tensor([1.5], dtype=torch.float64))[0].float(), isotropic_gaussian(1.5))
    theta = torch.tensor([0.1, 0.2], dtype=torch.float64)
    mixed = anisotropic_gaussian(2.0, 1.0, theta)
    assert mixed.dtype == torch.float64
    assert torch.equal(mixed[1].float(), anisotropic_gaussian(2.0, 1.0, 0.2))


@pytest.mark.parametrize(
    ("sigma", "error", "match"),
    [
        (-1.0, ValueError, r"sigma is \[-1\.0\], but must be at least 0"),
        (math.nan, ValueError, "sigma is nan, but must be finite"),
        (math.inf, ValueError, "sigma is inf, but must be finite"),
        (torch.tensor([1.0, math.nan]), ValueError, r"sigma is \[1\.0, nan\], but must be finite"),
        (torch.tensor([1.0, -2.0]), ValueError, r"sigma is \[1\.0, -2\.0\], but must be at least 0"),
        (torch.ones(2, 2), ValueError, r"sigma has shape \(2, 2\), but must be \(B,\), or a number"),
        (torch.tensor(1.0), ValueError, r"sigma has shape \(\), but"),
        (torch.tensor([1]), TypeError, r"sigma has dtype torch\.int64, but must be a floating point tensor"),
        ("1", TypeError, "sigma is '1', but must be a number"),
        (True, TypeError, "sigma is True, but"),
    ],
)
def test_bad_sigma(sigma, error, match):
    with pytest.raises(error, match=match):
        isotropic_gaussian(sigma)


@pytest.mark.parametrize(("size", "error"), [(20, ValueError), (0, ValueError), (-3, ValueError), (21.0, TypeError)])
def test_bad_size(size, error):
    with pytest.raises(error, match=r"size is .*, but must be"):
        isotropic_gaussian(1.0, size)


def test_bad_anisotropic_arguments():
    with pytest.raises(ValueError, match=r"l2 is \[-1\.0\], but must be at least 0"):
        anisotropic_gaussian(1.0, -1.0, 0.0)
    with pytest.raises(ValueError, match="theta is nan, but must be finite"):
        anisotropic_gaussian(1.0, 1.0, math.nan)
    with pytest.raises(ValueError, match=r"l1, l2 and theta have lengths \[2, 3, 1\], but must have the same"):
        anisotropic_gaussian(torch.ones(2), torch.ones(3), 0.0)
    with pytest.raises(TypeError, match=r"have dtypes torch\.float32, torch\.float64, but must have the same"):
        anisotropic_gaussian(torch.ones(2), torch.ones(2, dtype=torch.float64), 0.0)
    with pytest.raises(ValueError, match="are on cpu, meta, but must be on one device"):
        anisotropic_gaussian(torch.ones(2), 1.0, torch.ones(2, device="meta"))


def test_a_width_of_zero_turns_with_theta():
    along_x = anisotropic_gaussian(2.0, 0.0, 0.0)
    along_y = anisotropic_gaussian(2.0, 0.0, math.pi / 2)
    # At pi/2 the axes are rounded to 6e-17: 10 px along, 6e-16 px across. Rounded once to float32.
    torch.testing.assert_close(along_y, along_x.T, rtol=0, atol=2**-24)
    diagonal, other = (anisotropic_gaussian(2.0, 0.0, theta) for theta in (math.pi / 4, 3 * math.pi / 4))
    assert (diagonal.diagonal() > 0).all()
    assert diagonal.sum() == diagonal.diagonal().sum()
    torch.testing.assert_close(other, diagonal.flip(1), rtol=0, atol=2**-24)
