import pytest
import torch

from mrda.degradations import quantize


def test_levels_are_kept_and_values_clipped():
    levels = torch.arange(256, dtype=torch.float64) / 255
    assert torch.equal(quantize(levels), levels)
    assert torch.equal(quantize(levels.float()), (torch.arange(256) / 255))
    assert torch.equal(quantize(torch.tensor([-0.3, 1.7])), torch.tensor([0.0, 1.0]))


def test_halves_round_to_even():
    # A tie is only a tie where 255 * x comes out exact: see that it does.
    x = torch.tensor([0.5 * 255, 1.5 * 255, 2.5 * 255], dtype=torch.float64) / 255**2
    assert torch.equal(255 * x, torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64))
    assert torch.equal(quantize(x) * 255, torch.tensor([0.0, 2.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_shape_stay(dtype):
    x = torch.rand(2, 3, 4, 5).to(dtype)
    assert quantize(x).dtype == dtype
    assert quantize(x).shape == x.shape


@pytest.mark.parametrize("x", [torch.ones(3, dtype=torch.uint8), 0.5])
def test_bad_input(x):
    with pytest.raises(TypeError, match=r"x (has dtype torch\.uint8|is float), but must be a"):
        quantize(x)
