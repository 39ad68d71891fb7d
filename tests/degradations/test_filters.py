"""Filtering by Fourier transforms and by bands, against scipy's direct correlation."""

import math

import numpy as np
import pytest
import real_formulas
import torch

from mrda.degradations import filters
from mrda.degradations.filters import filter_images

pytest.importorskip("scipy", reason="needs scipy, which comes with scikit-image")

SHAPES = [(1, 1), (1, 9), (6, 2), (13, 20), (24, 37), (65, 40)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(count, size, seed=1):
    kernels = torch.rand(count, size, size, generator=seeded(seed), dtype=torch.float64)
    kernels = kernels + kernels.flip(1, 2)
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def product(size):
    """A kernel that is a column times a row, unlike each other."""
    column, row = symmetric(1, size)[0, size // 2], symmetric(1, size, 2)[0, size // 2]
    column, row = column + column.flip(0), row + row.flip(0)
    return (column[:, None] * row / (column.sum() * row.sum()))[None]


def directly(images, kernels):
    pairs = zip(images.double().numpy(), kernels.expand(len(images), -1, -1).numpy(), strict=True)
    return torch.from_numpy(np.stack([real_formulas.blur(image, kernel) for image, kernel in pairs]))


def budget(images, kernels, eps):
    """Bound of the root mean square error of three Fourier transforms, each of eps log2 N (Higham, 24.2), relative.

    All spectra are at most 1, because the kernels add up to 1. The padded picture has the pixels' mean square or less.
    """
    size = kernels.shape[-1]
    pixels = math.prod(length + 2 * size for length in images.shape[2:])
    return 3 * eps * math.log2(pixels)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 7, 21])
@pytest.mark.parametrize("count", [1, 2])
def test_equals_the_direct_correlation(shape, size, count):
    images = torch.rand(2, 3, *shape, generator=seeded(), dtype=torch.float64)
    kernels = symmetric(count, size)
    filtered = filter_images(images, kernels)
    assert filtered.shape == images.shape
    # Errors look like noise: none reaches eight times their root mean square.
    torch.testing.assert_close(filtered, directly(images, kernels), rtol=0, atol=8 * budget(images, kernels, 2.0**-53))


def test_float32_stays_within_its_rounding_errors():
    images, kernels = torch.rand(2, 3, 64, 64, generator=seeded()), symmetric(2, 21)
    errors = filter_images(images, kernels).double() - directly(images, kernels)
    assert errors.square().mean().sqrt() < budget(images, kernels, 2.0**-24)
    assert errors.abs().max() < 8 * budget(images, kernels, 2.0**-24)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_of_column_and_row_goes_by_them(shape, dtype, monkeypatch):
    images = torch.rand(2, 3, *shape, generator=seeded(), dtype=dtype)
    kernel = product(21)
    monkeypatch.setattr(filters, "_filter_spectra", None)
    # Two sums of 21 products of positive numbers that add up to 1, whose weights were rounded.
    torch.testing.assert_close(
        filter_images(images, kernel).double(), directly(images, kernel), rtol=0, atol=46 * torch.finfo(dtype).eps / 2
    )


def test_edges_that_cannot_matter_are_cut_off():
    images = torch.rand(2, 3, 30, 30, generator=seeded(), dtype=torch.float64)
    places = torch.arange(21, dtype=torch.float64) - 10
    taps = torch.exp(-0.5 * (places / torch.tensor([[0.5], [0.7]])) ** 2)
    kernels = taps[:, :, None] * taps[:, None]
    kernels[1] += kernels[1].T.roll((1, -1), (0, 1)) + kernels[1].T.roll((-1, 1), (0, 1))  # no product
    kernels /= kernels.sum(dim=(1, 2), keepdim=True)
    assert filters._trimmed(kernels, 1e-9).shape == (2, 11, 11)
    assert filters._trimmed(kernels[:1], 1e-9).shape == (1, 7, 7)
    assert torch.equal(filters._trimmed(kernels, 1e-9), kernels[:, 5:-5, 5:-5])
    assert filters._trimmed(torch.zeros(1, 5, 5), 1e-9).shape == (1, 1, 1)
    exact = directly(images, kernels)
    torch.testing.assert_close(filter_images(images, kernels), exact, rtol=0, atol=8 * budget(images, kernels, 2**-53))
    for number in range(2):
        kernel = kernels[number : number + 1]
        expected = directly(images, kernel)
        error = 8 * budget(images, kernel, 2**-53)
        torch.testing.assert_close(filter_images(images, kernel), expected, rtol=0, atol=error)


def test_the_identity_changes_nothing():
    images = torch.rand(2, 3, 30, 30, generator=seeded())
    kernel = torch.zeros(1, 21, 21, dtype=torch.float64)
    kernel[:, 10, 10] = 1
    assert torch.equal(filter_images(images, kernel), images)


def test_what_is_no_product_is_not_taken_for_one():
    kernel = product(21)[0]
    kernel[4, 4] += 1e-6
    kernel[16, 16] += 1e-6
    assert filters._is_product(product(21)[0], 1e-9)
    assert not filters._is_product(kernel, 1e-9)
    images = torch.rand(1, 3, 30, 30, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(filter_images(images, kernel[None]), directly(images, kernel[None]), rtol=0, atol=1e-13)
    zero = torch.zeros(3, 3, dtype=torch.float64)
    zero[0, 0] = zero[2, 2] = 0.5  # nothing in the middle to divide by
    assert not filters._is_product(zero, 1e-9)


@pytest.mark.parametrize(("least", "length"), [(1, 1), (11, 12), (13, 14), (121, 125), (127, 128), (276, 280)])
def test_fast_lengths(least, length):
    assert filters._fast_length(least) == length
