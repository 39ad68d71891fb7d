import math

import numpy as np
import pytest
import torch

from mrda.evaluation.metrics import psnr_y, ssim_y

metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image")

WEIGHTS = {"released": (65.738, 129.057, 25.064), "matlab": (65.481, 128.553, 24.966)}


def pair(height=40, width=33, noise=0.05, dtype=torch.float64):
    """Two batches of 8-bit images that resemble each other."""
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, height, width, generator=generator, dtype=torch.float64)
    sr = (hr + noise * torch.randn(hr.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    return tuple(((255 * image).round() / 255).to(dtype) for image in (sr, hr))


def luma(images, variant, divisor, border):
    """8-bit RGB to Y of (B, H, W) in 0..255, without the border."""
    rgb = np.rint(255 * images.numpy()).astype(np.float64)
    y = sum(weight * rgb[:, c] for c, weight in enumerate(WEIGHTS[variant])) / divisor + 16
    return y[:, border : y.shape[1] - border, border : y.shape[2] - border]


@pytest.mark.parametrize(("variant", "divisor"), [("released", 256), ("matlab", 255)])
@pytest.mark.parametrize("border", [0, 4])
def test_psnr_is_scikit_images_on_the_documented_luma(variant, divisor, border):
    sr, hr = pair()
    y_sr, y_hr = (luma(image, variant, divisor, border) for image in (sr, hr))
    expected = [metrics.peak_signal_noise_ratio(h, s, data_range=255) for s, h in zip(y_sr, y_hr, strict=True)]
    got = psnr_y(sr, hr, border, variant)
    assert got.dtype == torch.float64
    # Float64 throughout; a relative error of some eps in the luma difference (of numbers 100 times larger) is
    # far below 1e-10 dB.
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", ["released", "matlab"])
@pytest.mark.parametrize("border", [0, 4])
def test_ssim_is_scikit_images_on_the_documented_luma(variant, border):
    sr, hr = pair()
    y_sr, y_hr = (luma(image, variant, 255, border) for image in (sr, hr))
    expected = [
        metrics.structural_similarity(
            h, s, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for s, h in zip(y_sr, y_hr, strict=True)
    ]
    got = ssim_y(sr, hr, border, variant)
    assert got.dtype == torch.float64
    # Second moments near 255^2 in float64 leave some 1e-11 in variances that are divided by C2 = 58 at least.
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-10)


def test_the_variants_differ_as_documented():
    sr, hr = pair()
    difference = (ssim_y(sr, hr, 4) - ssim_y(sr, hr, 4, "matlab")).abs()
    assert (difference > 0).all()
    assert (difference < 7e-4).all()
    # 65.738/256 and 65.481/255 agree to 3e-6 in relative terms for each channel: below 3e-5 dB.
    assert ((psnr_y(sr, hr, 4) - psnr_y(sr, hr, 4, "matlab")).abs() < 3e-5).all()


def test_one_level_of_gray_is_known():
    hr = torch.zeros(1, 3, 20, 20)
    weight = sum(WEIGHTS["released"]) / 256
    expected = -20 * math.log10(weight / 255)
    assert psnr_y(hr + 1 / 255, hr, 0).item() == pytest.approx(expected, abs=1e-10)


def test_equal_images():
    hr = pair()[1]
    assert torch.equal(psnr_y(hr, hr, 2), torch.full((2,), math.inf, dtype=torch.float64))
    assert torch.equal(ssim_y(hr, hr, 2), torch.ones(2, dtype=torch.float64))


def test_images_are_rounded_to_eight_bits_first():
    sr, hr = pair(dtype=torch.float32)
    shifted = sr + 0.4 / 255
    for metric in (psnr_y, ssim_y):
        assert torch.equal(metric(shifted, hr, 4), metric(sr, hr, 4))
        assert not torch.equal(metric(sr + 0.6 / 255, hr, 4), metric(sr, hr, 4))


def test_the_border_is_left_out():
    sr, hr = pair()
    spoiled = sr.clone()
    spoiled[..., :3, :], spoiled[..., -3:, :], spoiled[..., :3], spoiled[..., -3:] = 0, 1, 1, 0
    for metric in (psnr_y, ssim_y):
        assert torch.equal(metric(spoiled, hr, 3), metric(sr, hr, 3))
        assert not torch.equal(metric(spoiled, hr, 2), metric(sr, hr, 2))


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
@pytest.mark.parametrize(
    ("sr", "hr", "border", "variant", "error", "match"),
    [
        (
            torch.rand(1, 3, 20, 20),
            torch.rand(1, 3, 20, 21),
            0,
            "released",
            ValueError,
            "sr has shape .* but must have that of hr",
        ),
        (torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20), 0, "released", ValueError, "sr has shape"),
        (torch.rand(1, 3, 20, 20), torch.rand(3, 20, 20), 0, "released", ValueError, "hr has shape"),
        (
            torch.rand(1, 3, 20, 20),
            torch.rand(1, 3, 20, 20),
            10,
            "released",
            ValueError,
            "border is 10, but must leave",
        ),
        (
            torch.rand(1, 3, 20, 20),
            torch.rand(1, 3, 20, 20),
            -1,
            "released",
            ValueError,
            "border is -1, but must be at least 0",
        ),
        (
            torch.rand(1, 3, 20, 20),
            torch.rand(1, 3, 20, 20),
            1.0,
            "released",
            TypeError,
            r"border is 1\.0, but must be an int",
        ),
        (
            torch.rand(1, 3, 20, 20),
            torch.rand(1, 3, 20, 20),
            0,
            "rec709",
            ValueError,
            "variant is 'rec709', but must be one of",
        ),
        (
            torch.rand(1, 3, 20, 20).byte(),
            torch.rand(1, 3, 20, 20),
            0,
            "released",
            TypeError,
            "sr has dtype torch.uint8, but must be a floating",
        ),
    ],
)
def test_bad_input(metric, sr, hr, border, variant, error, match):
    with pytest.raises(error, match=match):
        metric(sr, hr, border, variant)


def test_ssim_needs_room_for_its_window():
    image = torch.rand(1, 3, 18, 30)
    assert ssim_y(image, image, 3).shape == (1,)
    with pytest.raises(ValueError, match="border is 4, but must leave 11 or more pixels per side of a 18x30 image"):
        ssim_y(image, image, 4)
