import math

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.degradations.classic import degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.degradations.resample import bicubic
from mrda.evaluation.metrics import psnr_y, ssim_y
from mrda.evaluation.protocols import PROTOCOLS, conditions, evaluate, isotropic_conditions
from mrda.images import ImageError, read_rgb, to_tensor

# Table II's blurs (the test set that IKC introduced), in HR pixels.
WIDTHS = {
    2: [0.8, 0.8 + 0.8 / 7, 0.8 + 1.6 / 7, 0.8 + 2.4 / 7, 0.8 + 3.2 / 7, 0.8 + 4.0 / 7, 0.8 + 4.8 / 7, 1.6],
    3: [1.35, 1.50, 1.65, 1.80, 1.95, 2.10, 2.25, 2.40],
    4: [1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2],
}


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(0)
    paths = []
    for name, shape in (("wide", (41, 62, 3)), ("tall", (58, 40, 3))):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    return paths


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_gaussian8_has_the_published_widths(scale):
    found = conditions("gaussian8", scale)
    assert len(found) == 8
    for condition, sigma in zip(found, WIDTHS[scale], strict=True):
        assert condition.name == f"sigma={sigma:.4g}"
        torch.testing.assert_close(condition.kernel, isotropic_gaussian(sigma), rtol=1e-6, atol=0)


def test_bicubic_has_one_condition_without_blur():
    (condition,) = conditions("bicubic", 3)
    assert condition == ("bicubic", None)


def test_unknown_protocols_and_scales_are_refused():
    with pytest.raises(ValueError, match="protocol is 'gaussian9', but must be one of 'gaussian8', 'bicubic'"):
        conditions("gaussian9", 4)
    for protocol in PROTOCOLS:
        with pytest.raises(ValueError, match="scale is 5, but must be one of 2, 3, 4"):
            conditions(protocol, 5)


def test_records_come_per_image_condition_and_method(photos):
    blurs = isotropic_conditions([0.0, 1.5])
    records = list(evaluate(lambda lr: bicubic(lr, 2), photos, blurs, 2, name="again"))
    assert [(r.image, r.condition, r.method) for r in records] == [
        (image, condition, method)
        for image in ("wide", "tall")
        for condition in ("sigma=0", "sigma=1.5")
        for method in ("bicubic", "again")
    ]
    for baseline, again in zip(records[::2], records[1::2], strict=True):
        assert baseline[3:] == again[3:]


def test_without_a_method_bicubic_alone_is_measured(photos):
    assert {r.method for r in evaluate(None, photos, "bicubic", 2)} == {"bicubic"}


def test_scores_are_the_metrics_of_the_degraded_cropped_image(photos):
    hr = to_tensor(read_rgb(photos[0]))[..., :39, :60]
    lr = degrade(hr, isotropic_gaussian(1.35), 3).lr
    seen = []

    def method(given):
        seen.append(given)
        return torch.full_like(hr, 0.5)

    record = next(r for r in evaluate(method, photos, "gaussian8", 3) if r.method == "mrda_s")
    torch.testing.assert_close(seen[0], lr, rtol=0, atol=0)
    assert record.psnr_y == float(psnr_y(torch.full_like(hr, 0.5), hr, 3))
    assert record.ssim_y == float(ssim_y(torch.full_like(hr, 0.5), hr, 3))


def test_nothing_random(photos):
    assert list(evaluate(None, photos, "gaussian8", 2)) == list(evaluate(None, photos, "gaussian8", 2))


def test_the_original_itself_scores_infinity(photos):
    hr = to_tensor(read_rgb(photos[0]))[..., :40, :62]
    record = next(r for r in evaluate(lambda lr: hr, photos, "bicubic", 2) if r.method == "mrda_s")
    assert record.psnr_y == math.inf
    assert record.ssim_y == pytest.approx(1)


def test_unreadable_image_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        list(evaluate(None, [tmp_path / "gone.png"]))


def test_nan_is_no_score(photos):
    records = evaluate(lambda lr: bicubic(lr, 2) * math.nan, photos[:1], "bicubic", 2, name="broken")
    assert next(records).method == "bicubic"
    with pytest.raises(ValueError, match=r"wide\.png: the SR of broken under bicubic has NaN values"):
        next(records)
