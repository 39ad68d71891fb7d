"""Noise and JPEG compression, as they are seen in a photo."""

import io

import numpy as np
import pytest
from PIL import Image

from mrda.photo.files import read_photo
from mrda.photo.photo import Photo
from mrda.photo.traces import traces_of


def soft(side=128, seed=0, channels=3):
    """A photo of smooth structure, alike in all channels but for the brightness."""
    random = np.random.default_rng(seed).normal(size=(side, side))
    waves = np.hypot(np.fft.rfftfreq(side)[None], np.fft.fftfreq(side)[:, None])
    levels = np.fft.irfft2(np.fft.rfft2(random) * np.exp(-((12 * waves) ** 2)), s=(side, side))
    levels = 128 + 40 * levels / levels.std()
    return np.stack([levels * gain for gain in (1.0, 0.9, 0.8)[:channels]], axis=2)


def levels(values):
    return np.uint8(np.clip(np.rint(values), 0, 255))


def noisy(sd, channels=3, seed=1):
    photo = soft(channels=channels)
    return levels(photo + sd * np.random.default_rng(seed).normal(size=photo.shape))


def jpeg(pixels, quality, folder):
    path = folder / f"{quality}.jpg"
    Image.fromarray(pixels).save(path, quality=quality)
    return read_photo(path)


@pytest.mark.parametrize("sd", [0, 2, 5, 15, 25])
def test_the_noise_of_colours_is_measured(sd):
    assert traces_of(Photo(noisy(sd))).noise == pytest.approx(sd, rel=0.15, abs=0.6)
    deep = noisy(sd).astype(np.uint16) * 257
    assert traces_of(Photo(deep)).noise == pytest.approx(sd, rel=0.15, abs=0.6)


def test_strong_noise_is_seen_in_gray_and_in_equal_channels():
    for sd, expected in ((20, 20), (3, 0)):
        gray = noisy(sd, channels=1)[..., 0]
        assert traces_of(Photo(gray)).noise == pytest.approx(expected, rel=0.2)
        assert traces_of(Photo(np.stack([gray] * 3, axis=2))).noise == pytest.approx(expected, rel=0.2)


def test_fine_texture_is_no_noise():
    random = np.random.default_rng(0).normal(size=(128, 128, 1))
    grass = levels(np.where(np.arange(128)[:, None, None] < 20, 128, 128 + 40 * random) * np.ones(3))
    assert traces_of(Photo(grass)).noise < 1
    stripes = levels(128 + 60 * np.sign(np.sin(np.arange(128.0)))[None, :, None] * np.ones((128, 1, 3)))
    assert traces_of(Photo(stripes)).noise < 1


def test_alpha_and_small_photos_are_taken():
    opaque = np.full((128, 128, 1), 255, np.uint8)
    rgba = np.concatenate([noisy(10), opaque], axis=2)
    assert traces_of(Photo(rgba)) == traces_of(Photo(rgba[..., :3]))
    assert traces_of(Photo(rgba[..., [0, 3]])) == traces_of(Photo(rgba[..., 0]))
    for side in (1, 7, 17, 40):
        traces = traces_of(Photo(noisy(0)[:side, :side]))
        assert traces.noise < 1.5
        assert traces.jpeg_quality == 100


def test_tables_say_the_quality(tmp_path):
    for quality in (99, 95, 75, 60):
        assert jpeg(noisy(0), quality, tmp_path).jpeg_quality == quality
        assert traces_of(jpeg(noisy(0), quality, tmp_path)).jpeg_quality == quality
    Image.fromarray(noisy(0)).save(tmp_path / "no.png")
    assert read_photo(tmp_path / "no.png").jpeg_quality is None


def test_blocks_tell_of_jpeg_where_tables_do_not(tmp_path):
    rough = levels(soft(seed=3) + np.random.default_rng(0).normal(size=(128, 128, 1)) * 12)
    assert traces_of(Photo(rough)).jpeg_quality == 100
    for quality in (60, 30):
        blocky = jpeg(rough, quality, tmp_path).pixels
        shifted = blocky[3:, 5:]
        for pixels in (blocky, shifted):
            assert traces_of(Photo(pixels)).jpeg_quality < 80
        file = io.BytesIO()
        Image.fromarray(blocky).save(file, "JPEG", quality=97)
        (tmp_path / "again.jpg").write_bytes(file.getvalue())
        again = read_photo(tmp_path / "again.jpg")
        assert again.jpeg_quality == 97
        assert traces_of(again).jpeg_quality < 80


def test_only_the_middle_of_a_large_photo_is_looked_at(monkeypatch):
    monkeypatch.setattr("mrda.photo.traces.SIDE", 64)
    photo = noisy(0)
    photo[:24] = noisy(25)[:24]
    assert traces_of(Photo(photo)).noise < 1
