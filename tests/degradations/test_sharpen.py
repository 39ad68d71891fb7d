import numpy as np
import pytest
import real_formulas
import torch

from mrda.degradations import sharpen

pytest.importorskip("scipy", reason="needs scipy, which comes with scikit-image")


def photo(height=60, width=70, dtype=torch.float64):
    rows, columns = np.mgrid[:height, :width]
    waves = [0.5 + 0.55 * np.sin(rows / 5 + i) * np.cos(columns / (3 + i)) for i in range(6)]
    return torch.from_numpy(np.clip(np.stack(waves), 0, 1).reshape(2, 3, height, width)).to(dtype)


@pytest.mark.parametrize("size", [(60, 70), (24, 31), (1, 5)])
def test_equals_its_definition(size):
    images = photo(*size)
    expected = np.stack([real_formulas.sharpened(image) for image in images.numpy()])
    torch.testing.assert_close(sharpen(images), torch.from_numpy(expected), rtol=0, atol=1e-13)
    assert size == (1, 5) or not torch.equal(sharpen(images), images)


def test_float32_and_below():
    images = photo(dtype=torch.float32)
    sharp = sharpen(images)
    assert sharp.dtype == torch.float32
    assert sharp.min() >= 0
    assert sharp.max() <= 1
    exact = sharpen(images.double())
    # A pixel at the threshold may fall on either side, and then counts for 1/400 in its neighbourhood.
    torch.testing.assert_close(sharp.double(), exact, rtol=0, atol=1e-3)
    half = images.half()
    assert torch.equal(sharpen(half), sharpen(half.float()).half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sharpen(images), sharp)


def test_flat_images_stay():
    images = torch.full((1, 3, 40, 40), 0.25)
    torch.testing.assert_close(sharpen(images), images, rtol=0, atol=1e-6)


def test_a_wrong_call_is_one_sentence():
    with pytest.raises(TypeError, match=r"images has dtype .*uint8, but must be a floating point tensor"):
        sharpen(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"images has shape \(3, 8, 8\)"):
        sharpen(torch.zeros(3, 8, 8))
