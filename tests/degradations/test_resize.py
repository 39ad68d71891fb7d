import pytest
import torch
import torch.nn.functional as F

from mrda.degradations.real.resize import MODES, resize

SIZES = [(40, 56), (1, 1), (6, 80), (13, 9), (39, 57), (41, 55), (60, 84), (20, 28)]


def images(dtype):
    return torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_equals_torch(mode, size):
    x = images(torch.float64)
    # Weights are at most 1.3, their sum and that of their sizes too: a few roundings of the places, of up to 84.
    torch.testing.assert_close(resize(x, size, mode), F.interpolate(x, size=size, mode=mode), rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_float32_is_the_rounded_result(mode, size):
    x = images(torch.float32)
    # Area: sums of up to 57 pixels per axis; bicubic: 4 of a total weight of up to 1.6 per axis.
    torch.testing.assert_close(
        resize(x, size, mode).double(), resize(x.double(), size, mode), rtol=0, atol=128 * 2**-24
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (17, 16)])
def test_small_images(mode, shape):
    x = images(torch.float64)[..., : shape[0], : shape[1]]
    for size in ((1, 1), (2, 7), (33, 16)):
        torch.testing.assert_close(resize(x, size, mode), F.interpolate(x, size=size, mode=mode), rtol=0, atol=1e-13)


def test_the_same_size_is_left_alone():
    x = images(torch.float32)
    assert resize(x, (40, 56), "bicubic") is x
