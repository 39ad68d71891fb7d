import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.degradations.classic import degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import bicubic_method, blind_method
from mrda.evaluation.metrics import psnr_y, ssim_y
from mrda.evaluation.protocols import PROTOCOLS, conditions, evaluate, isotropic_conditions
from mrda.evaluation.samples import Condition, make_sample
from mrda.photo.images import ImageError, read_rgb, to_tensor

# Table II's blurs (the test set that IKC introduced), in HR pixels.
WIDTHS = {
    2: [0.8, 0.8 + 0.8 / 7, 0.8 + 1.6 / 7, 0.8 + 2.4 / 7, 0.8 + 3.2 / 7, 0.8 + 4.0 / 7, 0.8 + 4.8 / 7, 1.6],
    3: [1.35, 1.50, 1.65, 1.80, 1.95, 2.10, 2.25, 2.40],
    4: [1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2],
}

# l1, l2 in HR pixels and the angle in degrees of each kernel, and the noise levels.
NINE = {
    "mrda9": (
        [
            *((4, 1, 0), (3.5, 1.5, 20), (3, 2, 40), (2.5, 2.5, 0), (3, 2, 0)),
            *((3.5, 1.5, 20), (4, 1, 40), (3.5, 2.5, 60), (4, 4, 0)),
        ],
        [0, 10, 20],
    ),
    "dasr9": (
        [
            *((2, 0.2, 0), (2, 1, 10), (3.5, 1.5, 30), (3.5, 2, 45), (3.5, 2, 90)),
            *((4, 1.5, 120), (4, 2, 135), (4, 3, 165), (4, 4, 180)),
        ],
        [0, 5, 10],
    ),
}


def gaussian(l1, l2, degrees):
    """exp(-v' S^-1 v / 2) on the 21x21 grid, x along columns, S = R diag(l1^2, l2^2) R'; of sum 1, in float64."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotation = np.array([[c, -s], [s, c]])
    precision = rotation @ np.diag([l1**-2, l2**-2]) @ rotation.T
    y, x = np.mgrid[-10:11, -10:11].astype(np.float64)
    quadratic = precision[0, 0] * x * x + 2 * precision[0, 1] * x * y + precision[1, 1] * y * y
    kernel = np.exp(-0.5 * quadratic)
    return kernel / kernel.sum()


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(0)
    paths = []
    for name, shape in (("wide", (41, 62, 3)), ("tall", (58, 40, 3))):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    return paths


def first(photo, scale):
    hr = to_tensor(read_rgb(photo))
    return hr[..., : hr.shape[2] // scale * scale, : hr.shape[3] // scale * scale]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_gaussian8_has_the_published_widths(scale):
    found = conditions("gaussian8", scale)
    assert len(found) == 8
    for condition, sigma in zip(found, WIDTHS[scale], strict=True):
        assert condition.name == f"sigma={sigma:.4g}"
        assert condition.noise_level == 0
        # The kernel may be in float32, with values below 1: an error of some 2^-24.
        np.testing.assert_allclose(condition.kernel.numpy(), gaussian(sigma, sigma, 0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("protocol", NINE)
def test_nine_kernels_at_three_noise_levels(protocol, scale):
    kernels, levels = NINE[protocol]
    found = conditions(protocol, scale)
    assert len(found) == 27
    wanted = [(level, number, kernel) for level in levels for number, kernel in enumerate(kernels, start=1)]
    for condition, (level, number, kernel) in zip(found, wanted, strict=True):
        assert condition.name == f"k{number} noise={level}"
        assert condition.noise_level == level
        np.testing.assert_allclose(condition.kernel.numpy(), gaussian(*kernel), rtol=0, atol=1e-6)


def test_noise_levels_are_restricted_in_the_protocols_order():
    everything = {condition.name: condition for condition in conditions("mrda9", 4)}
    some = conditions("mrda9", 4, noise_levels=[20, 0])
    assert [condition.name for condition in some] == [f"k{n} noise={level}" for level in (0, 20) for n in range(1, 10)]
    assert all(torch.equal(condition.kernel, everything[condition.name].kernel) for condition in some)
    with pytest.raises(ValueError, match="noise is 5, but the protocol mrda9 has the levels 0, 10, 20"):
        conditions("mrda9", 4, noise_levels=[5])
    for protocol in ("gaussian8", "bicubic"):
        with pytest.raises(ValueError, match=rf"noise is \[0\], but the protocol {protocol} has no noise levels"):
            conditions(protocol, 4, noise_levels=[0])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_dasr_iso_has_dasrs_four_widths_without_noise(scale):
    widths = {2: (0, 0.6, 1.2, 1.8), 3: (0, 0.8, 1.6, 2.4), 4: (0, 1.2, 2.4, 3.6)}[scale]
    found = conditions("dasr-iso", scale)
    assert [condition.name for condition in found] == [f"sigma={width:g}" for width in widths]
    assert found[0].kernel is None  # downsampling alone
    for condition, width in zip(found[1:], widths[1:], strict=True):
        assert torch.equal(condition.kernel, isotropic_gaussian(width))
    assert {condition.noise_level for condition in found} == {0.0}


def test_wide_spans_blurs_and_noise_at_any_scale():
    found = conditions("wide", 2)
    assert len({condition.name for condition in found}) == len(found) == 15
    assert [condition.noise_level for condition in found[::5]] == [0, 12.5, 25]
    assert torch.equal(found[0].kernel, isotropic_gaussian(0.2))
    assert torch.equal(found[-1].kernel, isotropic_gaussian(4.0))
    assert len(conditions("wide", 4, noise_levels=[25])) == 5


def test_bicubic_has_one_condition_without_blur():
    (condition,) = conditions("bicubic", 3)
    assert condition == Condition("bicubic", None)


def test_unknown_protocols_and_scales_are_refused():
    with pytest.raises(ValueError, match="protocol is 'gaussian9', but must be one of 'gaussian8', 'mrda9', 'dasr9'"):
        conditions("gaussian9", 4)
    for protocol in PROTOCOLS:
        with pytest.raises(ValueError, match="scale is 5, but must be one of 2, 3, 4"):
            conditions(protocol, 5)


def test_records_come_per_image_condition_and_method(photos):
    blurs = isotropic_conditions([0.0, 1.5])
    records = list(evaluate({"again": bicubic_method(2)}, photos, blurs, 2))
    assert [(r.image, r.condition, r.method) for r in records] == [
        (image, condition, method)
        for image in ("wide", "tall")
        for condition in ("sigma=0", "sigma=1.5")
        for method in ("bicubic", "again")
    ]
    for baseline, again in zip(records[::2], records[1::2], strict=True):
        assert baseline[3:] == again[3:]


def test_without_a_method_bicubic_alone_is_measured(photos):
    assert {r.method for r in evaluate({}, photos, "bicubic", 2)} == {"bicubic"}


@pytest.mark.parametrize("variant", ["released", "matlab"])
def test_scores_are_the_metrics_of_the_degraded_cropped_image(photos, variant):
    hr = first(photos[0], 3)
    assert hr.shape[2:] == (39, 60)
    seen = []

    def method(lr):
        seen.append(lr)
        return torch.full_like(hr, 0.5)

    records = evaluate({"gray": blind_method(method)}, photos, "gaussian8", 3, variant=variant)
    baseline, gray = next(records), next(records)
    lr = degrade(hr, isotropic_gaussian(1.35), 3).lr
    torch.testing.assert_close(seen[0], lr, rtol=0, atol=0)
    for record, sr in ((baseline, bicubic(lr, 3)), (gray, torch.full_like(hr, 0.5))):
        assert record.psnr_y == float(psnr_y(sr, hr, 3, variant))
        assert record.ssim_y == float(ssim_y(sr, hr, 3, variant))


@pytest.mark.parametrize(
    "options", [{"downsample": "sfold"}, {"border": "mirror"}, {"lr_up_from": "quantised"}, {"seed": 3}]
)
def test_options_reach_sample_and_baseline(photos, options):
    noisy = conditions("mrda9", 2, noise_levels=[10])[:1]
    samples = []

    def method(sample):
        samples.append(sample)
        return sample.lr_up

    (baseline, _) = evaluate({"up": method}, photos[:1], noisy, 2, **options)
    hr = first(photos[0], 2)
    expected = make_sample(hr, noisy[0], 2, image="wide", **options)
    assert torch.equal(samples[0].lr, expected.lr)
    assert torch.equal(samples[0].lr_up, expected.lr_up)
    sr = bicubic(expected.lr, 2, options.get("border", "clamp"))
    assert baseline.psnr_y == float(psnr_y(sr, hr, 2))


def test_noise_is_the_same_whatever_is_measured_beside_it(photos):
    whole = {record[:3]: record for record in evaluate({}, photos, "mrda9", 2)}
    assert len(whole) == 2 * 27
    degradations = conditions("mrda9", 2)
    for subset in ([photos[1]], [photos[1], photos[0]]):
        part = list(evaluate({"again": bicubic_method(2)}, subset, degradations[::-2], 2))
        assert len(part) == len(subset) * 14 * 2
        for record in part:
            assert record[3:] == whole[(*record[:2], "bicubic")][3:]
    other = next(evaluate({}, photos[:1], degradations[-1:], 2, seed=1))
    assert other != whole[other[:3]]


def test_the_original_itself_scores_infinity(photos):
    records = evaluate({"original": lambda sample: sample.hr}, photos, "bicubic", 2)
    record = next(r for r in records if r.method == "original")
    assert record.psnr_y == math.inf
    assert record.ssim_y == pytest.approx(1)


def test_unreadable_image_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        list(evaluate({}, [tmp_path / "gone.png"]))


def test_nan_is_no_score(photos):
    records = evaluate({"broken": lambda sample: sample.lr_up * math.nan}, photos[:1], "bicubic", 2)
    assert next(records).method == "bicubic"
    with pytest.raises(ValueError, match=r"wide\.png: the SR of broken under bicubic has NaN values"):
        next(records)


def test_an_sr_of_another_size_is_no_score(photos):
    records = evaluate({"small": lambda sample: sample.lr}, photos[:1], "bicubic", 2)
    with pytest.raises(ValueError, match=r"wide\.png: the SR of small has shape \(1, 3, 20, 31\), but must have that"):
        list(itertools.islice(records, 2))
