import numpy as np
import pytest
from PIL import Image

from mrda.photo.lanczos import resample

TARGETS = [(30, 5), (12, 9), (1, 1), (200, 150), (13, 10), (5, 30)]


def noise(dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def whole(pixels: np.ndarray, target: tuple[int, int], rows: int = 5) -> np.ndarray:
    bands = [pixels[start : start + rows] for start in range(0, len(pixels), rows)]
    return np.concatenate(list(resample(bands, pixels.shape[:2], target)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(12, 9), (150, 9, 3), (12, 170, 4), (1, 1)])
@pytest.mark.parametrize("target", TARGETS)
def test_it_is_pillows(dtype, shape, target):
    pixels = noise(dtype, shape)
    result = whole(pixels, target)
    assert result.dtype == dtype
    assert result.shape == (*target, *shape[2:])
    planes = [pixels] if pixels.ndim == 2 else list(np.moveaxis(pixels, 2, 0))
    exact = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(target[::-1], Image.Resampling.LANCZOS))
        for plane in planes
    ]
    top = np.iinfo(dtype).max
    expected = np.clip(np.stack(exact, axis=-1), 0, top).reshape(result.shape)
    # Half a level by rounding, and some ten roundings of float32.
    assert np.abs(result - expected).max() <= 0.5 + top * 2**-20


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flat_colours_and_the_same_size_stay_as_they_are(dtype):
    flat = np.full((12, 9, 3), np.iinfo(dtype).max, dtype)
    for target in TARGETS:
        assert (whole(flat, target) == flat[0, 0, 0]).all()
    pixels = noise(dtype, (150, 9, 3))
    np.testing.assert_array_equal(whole(pixels, (150, 9)), pixels)


@pytest.mark.parametrize("height", [40, 1000, 1700])
def test_bands_come_while_the_image_does(height):
    taken = 0

    def bands():
        nonlocal taken
        for _ in range(100):
            taken += 10
            yield np.zeros((10, 8), np.uint8)

    result = resample(bands(), (1000, 8), (height, 8))
    done = 0
    for band in result:
        done += len(band)
        # What was asked for is what the band sees: three pixels of the smaller image beyond it, to the next ten rows.
        assert taken <= min(1000, done * 1000 / height + 3 * max(1, 1000 / height) + 10)
        assert len(band) <= 110
    assert done == height
