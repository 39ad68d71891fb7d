import math

import numpy as np
import pytest
import torch

from mrda.degradations.real.noise import add_gaussian_noise, add_poisson_noise, photons
from mrda.degradations.real.poisson import poisson


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gray_level(batch=4, side=64, level=0.5):
    return torch.full((batch, 3, side, side), level, dtype=torch.float64)


def test_gaussian_noise_has_its_width_and_colour():
    images, sigma = gray_level(), torch.tensor([5.0, 10.0, 5.0, 20.0])
    noise = (add_gaussian_noise(images, sigma, (False, True, True, False), seeded()) - images) * 255
    for index, gray in enumerate((False, True, True, False)):
        channels = noise[index]
        numbers = 64 * 64 * (1 if gray else 3)
        assert torch.equal(channels[0], channels[1]) == gray
        assert torch.equal(channels[0], channels[2]) == gray
        # Five standard errors of mean and deviation.
        assert abs(channels.mean()) < 5 * sigma[index] / math.sqrt(numbers)
        assert abs(channels.std() / sigma[index] - 1) < 5 / math.sqrt(2 * numbers)
    assert not torch.equal(noise[1] / 10, noise[2] / 5)  # each its own


def test_gaussian_noise_to_the_last_bit():
    images, sigma = gray_level(2, 8), torch.tensor([3.0, 6.0], dtype=torch.float64)
    noise = torch.randn(2, 3, 8, 8, generator=seeded(), dtype=torch.float64)
    expected = images + sigma[:, None, None, None] / 255 * noise
    noisy = add_gaussian_noise(images, sigma, (False, False), seeded())
    torch.testing.assert_close(noisy, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("gray", [False, True])
def test_what_all_images_share(gray):
    images = gray_level()
    shared = add_gaussian_noise(images, torch.tensor([9.0]), (gray,), seeded())
    assert torch.equal(shared, add_gaussian_noise(images, torch.full((4,), 9.0), (gray,) * 4, seeded()))
    assert torch.equal(shared[0, 0], shared[0, 1]) == gray
    assert not torch.equal(shared[0], shared[1])


@pytest.mark.parametrize("add", [add_gaussian_noise, add_poisson_noise])
def test_noise_is_clipped_and_leaves_its_input_alone(add):
    images = torch.rand(2, 3, 32, 32, generator=seeded(), dtype=torch.float64) * 1.2 - 0.1
    before = images.clone()
    noisy = add(images, torch.tensor([60.0]), (False,), seeded())
    assert torch.equal(images, before)
    assert noisy.min() == 0
    assert noisy.max() == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 128, 129, 255, 256])
def test_photons_are_the_next_power_of_two(count):
    levels = torch.arange(256.0)[torch.randperm(256, generator=seeded())[:count]]
    pixels = levels.repeat(3)[torch.randperm(3 * count, generator=seeded(1))].view(1, 3, 1, count)
    other = torch.zeros_like(pixels)
    assert photons(torch.cat((pixels, other))).tolist() == [2 ** math.ceil(math.log2(count)), 1]


def test_photons_of_images_whose_values_are_in_some_pixels_only():
    levels = torch.zeros(1, 1, 48, 48)
    levels[..., ::3, ::3] = torch.arange(256.0).view(16, 16)
    assert photons(levels).tolist() == [256]
    assert photons(levels.roll(1, dims=3)).tolist() == [256]
    assert photons(torch.cat((levels, torch.zeros(1, 1, 48, 48)))).tolist() == [256, 1]
    assert photons(levels.clamp(max=128)).tolist() == [256]  # 129 values
    assert photons(levels.clamp(max=127)).tolist() == [128]


@pytest.mark.parametrize("gray", [(False, True), (False,), (True,)])
def test_poisson_noise_by_its_definition(gray):
    images = torch.rand(2, 3, 8, 12, generator=seeded(), dtype=torch.float64)
    images[1] = (images[1] * 4).round() / 4  # few values
    scale = torch.tensor([1.5, 0.5], dtype=torch.float64)
    noisy = add_poisson_noise(images, scale, gray, seeded(1))

    def levels_of(image, is_gray):
        source = image.numpy()
        if is_gray:
            source = (0.2989 * source[0] + 0.587 * source[1] + 0.114 * source[2])[None]
        return np.rint(255 * source)

    flags = gray * (3 - len(gray))
    generator = seeded(1)
    expected = [None, None]
    for flag in (False, True):  # the coloured images draw first
        chosen = [i for i in range(2) if flags[i] == flag]
        if not chosen:
            continue
        levels = np.stack([levels_of(images[i], flag) for i in chosen])
        peaks = np.array([2.0 ** np.ceil(np.log2(len(np.unique(each)))) for each in levels])
        counts = poisson(torch.from_numpy(levels), torch.from_numpy(peaks), generator).numpy()
        noise = counts / peaks[:, None, None, None] - levels / 255
        for place, i in enumerate(chosen):
            expected[i] = np.clip(images[i].numpy() + float(scale[i]) * noise[place], 0, 1)
    for i in range(2):
        torch.testing.assert_close(noisy[i], torch.from_numpy(expected[i]), rtol=0, atol=1e-14)


def test_poisson_noise_grows_with_the_scale_and_the_light():
    images = torch.cat([gray_level(1, level=level) for level in (0.2, 0.8)])
    images[:, :, :16] = torch.linspace(0, 1, 64, dtype=torch.float64)  # 64 values and one more: N is 128
    noise = add_poisson_noise(images, torch.tensor([0.5]), (False,), seeded()) - images
    for image, level in zip(noise, (0.2, 0.8), strict=True):
        numbers = 3 * 48 * 64
        expected = 0.5 * math.sqrt(level / 128)
        assert abs(image[:, 16:].std() / expected - 1) < 5 / math.sqrt(2 * numbers)
