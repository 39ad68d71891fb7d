"""The second-order degradation as a whole: its order, its draws, its shapes and its errors."""

from dataclasses import fields, replace

import numpy as np
import pytest
import real_formulas
import torch
import torch.nn.functional as F

from mrda.core.checks import SCALES
from mrda.degradations import (
    CommonOptions,
    Degraded,
    RealDegradation,
    RealOptions,
    RoundOptions,
    SecondRoundOptions,
    bicubic,
    quantize,
    sharpen,
)
from mrda.degradations.jpeg import jpeg
from mrda.degradations.real import pipeline as module

NOISELESS = {"noise_range": (0.0, 0.0), "poisson_scale_range": (0.0, 0.0)}
SILENT = {"first": NOISELESS, "second": NOISELESS}


def build(scale=4, *, first=(), second=(), patch_size=64, **options):
    """A degradation from the options of its rounds, its own and those that all degradations have."""
    common = {field.name: options.pop(field.name) for field in fields(CommonOptions) if field.name in options}
    rounds = {"first": RoundOptions(**dict(first)), "second": SecondRoundOptions(**dict(second))}
    return RealDegradation(scale, RealOptions(**rounds, **options), CommonOptions(**common), patch_size=patch_size)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photo(batch=2, height=64, width=72, dtype=torch.float32, seed=0):
    """Waves with noise that fill [0, 1]."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows * generator.random() + columns * generator.random() + i) for i in range(3 * batch)]
    image = 0.5 + 0.6 * np.stack(waves) + 0.3 * (generator.random((3 * batch, height, width)) - 0.5)
    return quantize(torch.from_numpy(np.clip(image, 0, 1).reshape(batch, 3, height, width)).to(dtype))


def same(pair, other):
    return all(
        (left is None) == (right is None) and (left is None or torch.equal(left, right))
        for left, right in zip(pair, other, strict=True)
    )


def by_definition(hr, draw, scale=4):
    """The noiseless pipeline image by image, in float64, from the parameters of a draw; before rounding.

    Also which images no rounding can take two ways.
    """

    def of(shapes, index):
        kernels = shapes.kernels().numpy()
        return kernels[index if len(kernels) > 1 else 0]

    def blur(image, shapes, index):
        return torch.from_numpy(real_formulas.blur(image.numpy(), of(shapes, index)))

    def resize(image, size, mode):
        return F.interpolate(image[None], size=size, mode=mode)[0]

    def compress(image, qualities, index):
        quality = qualities[index if len(qualities) > 1 else 0]
        clear[index] &= not is_near_tie(image.clamp(0, 1))
        return jpeg(image.clamp(0, 1)[None], quality[None])[0]

    height, width = (length // scale * scale for length in hr.shape[2:])
    low = height // scale, width // scale
    results, clear = [], torch.ones(len(hr), dtype=torch.bool)
    for index, image in enumerate(hr[..., :height, :width]):
        factor = draw.first.factor
        image = blur(image, draw.first.kernel, index)
        image = resize(image, (int(height * factor), int(width * factor)), draw.first.mode).clamp(0, 1)
        image = compress(image, draw.first.quality, index)
        if draw.second_blur:
            image = blur(image, draw.second.kernel, index)
        factor = draw.second.factor
        image = resize(image, (int(low[0] * factor), int(low[1] * factor)), draw.second.mode).clamp(0, 1)
        if draw.sinc_first:
            image = blur(resize(image, low, draw.mode), draw.sinc, index)
            image = compress(image, draw.second.quality, index)
        else:
            image = compress(image, draw.second.quality, index)
            image = blur(resize(image, low, draw.mode), draw.sinc, index)
        clear[index] &= not is_near_tie(image)
        results.append(image)
    return torch.stack(results), clear


def is_near_tie(image):
    """True if a pixel is so close to half-way between two of 8 bits that float32's rounding may take it to either."""
    levels = 255 * image
    return ((levels - levels.floor() - 0.5).abs() < 1e-6).any().item()


@pytest.mark.parametrize("per", ["batch", "image"])
@pytest.mark.parametrize("seed", range(12))
def test_every_step_in_its_order(per, seed):
    pytest.importorskip("scipy", reason="needs scipy, which comes with scikit-image")
    hr = photo(3, 61, 66, torch.float64)
    degradation = build(4, per=per, patch_size=None, **SILENT)
    draw = degradation.draw(3, seeded(seed))
    pair = degradation.apply(hr, draw, seeded(seed))
    raw, clear = by_definition(hr, draw)
    # Both are exact to 1e-12, so that no pixel of a clear image falls on the other side of a rounding, in JPEG or at
    # the end. Resampling 8 bits by a simple fraction may lie on the edge itself.
    assert torch.equal(pair.lr[clear], quantize(raw)[clear])
    assert torch.equal(pair.lr_up[clear], quantize(bicubic(raw, 4))[clear])
    assert torch.equal(pair.hr, hr[..., :60, :64])


def test_the_seeds_above_meet_every_branch():
    met = set()
    for per in ("batch", "image"):
        for seed in range(12):
            draw = build(4, per=per).draw(3, seeded(seed))
            for number, part in enumerate((draw.first, draw.second)):
                met |= {(number, part.mode), (number, part.gaussian), (number, (part.factor > 1) - (part.factor < 1))}
            met |= {("blur", draw.second_blur), ("order", draw.sinc_first), ("mode", draw.mode)}
    expected = {(number, mode) for number in (0, 1, "mode") for mode in ("area", "bilinear", "bicubic")}
    expected |= {(number, kind) for number in (0, 1) for kind in (False, True, -1, 0, 1)}
    assert met == expected | {(name, kind) for name in ("blur", "order") for kind in (False, True)}


@pytest.mark.parametrize("per", ["batch", "image"])
@pytest.mark.parametrize("usm", [False, True])
@pytest.mark.parametrize("patch_size", [10, None])
def test_the_steps_are_those_of_the_call(per, usm, patch_size):
    hr = photo()
    degradation = build(4, per=per, usm=usm, patch_size=patch_size)
    for seed in range(6):
        called, shown = seeded(seed), seeded(seed)
        pair, steps = degradation(hr, called), list(degradation.steps(hr, shown))
        assert torch.equal(called.get_state(), shown.get_state())
        assert torch.equal(steps[-1].image, pair.lr)
        assert torch.equal(steps[0].image, hr)
        assert len(steps) == 11 + usm + degradation.draw(2, seeded(seed)).second_blur
        for step in steps:
            assert step.image.shape[:2] == (2, 3)
            assert step.image.isfinite().all()
            assert (step.kernel is not None) == step.caption.startswith(("Blur", "Last filter"))


def test_captions_say_what_was_drawn():
    hr = photo()
    degradation = build(4, patch_size=None, per="image")
    draw = degradation.draw(2, seeded(5))
    captions = [step.caption for step in degradation.steps(hr, seeded(5))]
    sigma = f"{float(draw.first.level[0]):.1f}" if draw.first.gaussian else f"{float(draw.first.level[0]):.2f}"
    assert captions[0] == "HR"
    assert captions[1] == f"Blur: {draw.first.kernel.describe(0)}"
    assert captions[2].startswith("Resize to ")
    assert captions[2].endswith(f", {draw.first.mode}")
    assert f" {sigma}" in captions[3]
    assert captions[3].endswith(", gray") == draw.first.gray[0]
    assert captions[4] == f"JPEG, quality {float(draw.first.quality[0]):.0f}"
    assert captions[-1] == "LR: 18x16 in 8 bits"


@pytest.mark.parametrize("per", ["batch", "image"])
def test_a_seed_is_a_batch(per):
    hr, degradation = photo(), build(4, per=per, patch_size=12, usm=True)
    before = hr.clone()
    pair = degradation(hr, seeded(3))
    assert same(pair, degradation(hr, seeded(3)))
    assert not torch.equal(pair.lr, degradation(hr, seeded(4)).lr)
    generator = seeded(3)
    assert same(pair, degradation.apply(hr, degradation.draw(2, generator), generator))
    assert torch.equal(hr, before)
    assert isinstance(pair, Degraded)
    assert pair.kernel is None
    assert pair.noise_level is None


def test_a_batch_shares_its_draw_and_an_image_has_its_own():
    hr = photo(1).expand(3, -1, -1, -1)
    for seed in range(8):
        shared = build(4, patch_size=None, **SILENT)(hr, seeded(seed)).lr
        assert torch.equal(shared[0], shared[1])
        assert torch.equal(shared[0], shared[2])
    own = build(4, patch_size=None, per="image", **SILENT)
    assert own.draw(3, seeded()).count == 3
    lr = own(hr, seeded()).lr
    assert not torch.equal(lr[0], lr[1])
    draw = own.draw(1, seeded())
    assert torch.equal(*own.apply(hr[:2], draw, seeded()).lr)


def test_parts_of_a_batch_may_share_a_draw():
    hr, degradation = photo(4), build(4, patch_size=None, **SILENT)
    draw = degradation.draw(4, seeded())
    whole = degradation.apply(hr, draw, seeded()).lr
    halves = [degradation.apply(half, draw, seeded()).lr for half in hr.chunk(2)]
    assert torch.equal(whole, torch.cat(halves))


@pytest.mark.parametrize("scale", SCALES)
def test_patches_lie_where_their_hr_lies(scale, monkeypatch):
    """With nothing left but area averages, LR is that of HR's patch, wherever it was cut out."""
    monkeypatch.setattr(module, "jpeg", lambda images, quality, codec: images)
    plain = {**NOISELESS, "blur_sigma": (1e-3, 1e-3), "sinc_prob": 0, "resize_prob": (0, 0, 1)}
    degradation = build(scale, patch_size=7, first=plain, second=plain, final_sinc_prob=0)
    hr = torch.rand(2, 3, 47, 61, generator=seeded(), dtype=torch.float64)  # no average is halfway between two levels
    places = set()
    for seed in range(20):
        draw = degradation.draw(2, seeded(seed))
        draw = replace(draw, first=replace(draw.first, mode="area"), second=replace(draw.second, mode="area"))
        pair = degradation.apply(hr, draw, seeded(seed))
        assert pair.hr.shape == (2, 3, 7 * scale, 7 * scale)
        assert pair.lr_up.shape == pair.hr.shape
        assert torch.equal(pair.lr, quantize(F.avg_pool2d(pair.hr, scale)))
        windows = hr[0, 0].unfold(0, 7 * scale, 1).unfold(1, 7 * scale, 1)
        (place,) = (windows == pair.hr[0, 0]).all(dim=(2, 3)).nonzero().tolist()
        assert place[0] % scale == place[1] % scale == 0
        places.add(tuple(place))
    rows, columns = (length // scale - 7 for length in (47, 61))
    assert all(0 <= top // scale <= rows and 0 <= left // scale <= columns for top, left in places)
    assert len(places) > 5


def test_crops_reach_the_corners():
    degradation = build(4, patch_size=10, **SILENT)
    hr, draw = photo(), degradation.draw(2, seeded())
    last = replace(draw, place=(1 - 2**-53, 1 - 2**-53))
    assert torch.equal(degradation.apply(hr, last, seeded()).hr, hr[..., 24:, 32:])
    assert torch.equal(degradation.apply(hr, replace(draw, place=(0.0, 0.0)), seeded()).hr, hr[..., :40, :40])


def test_sharpened_hr():
    hr = photo()
    plain, sharp = (build(4, patch_size=10, usm=usm) for usm in (False, True))
    pair = sharp(hr, seeded())
    draw = sharp.draw(2, seeded())
    (top, left) = (4 * int(at * (length // 4 - 9)) for at, length in zip(draw.place, hr.shape[2:], strict=True))
    assert torch.equal(pair.hr, hr[..., top : top + 40, left : left + 40])
    assert torch.equal(pair.hr_sharp, sharpen(hr)[..., top : top + 40, left : left + 40])
    assert plain(hr, seeded()).hr_sharp is None
    assert torch.equal(plain(sharpen(hr), seeded()).lr, pair.lr)
    assert not torch.equal(plain(hr, seeded()).lr, pair.lr)


@pytest.mark.parametrize("lr_up_from", ["raw", "quantised"])
@pytest.mark.parametrize("border", ["clamp", "mirror"])
def test_what_the_mln_starts_from(lr_up_from, border):
    degradation = build(4, patch_size=10, lr_up_from=lr_up_from, border=border)
    pairs = [degradation(photo(), seeded(seed)) for seed in range(6)]
    from_lr = [torch.equal(pair.lr_up, quantize(bicubic(pair.lr, 4, border))) for pair in pairs]
    assert all(from_lr) if lr_up_from == "quantised" else not all(from_lr)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(47, 59), (12, 13), (11, 200)])
@pytest.mark.parametrize("codec", ["libjpeg", "simulated"])
def test_any_size(scale, size, codec):
    degradation = build(scale, patch_size=None, jpeg=codec, usm=True)
    height, width = (length // scale for length in size)
    for seed in range(4):
        pair = degradation(photo(1, *size), seeded(seed))
        assert pair.lr.shape == (1, 3, height, width)
        assert pair.lr_up.shape == pair.hr.shape == pair.hr_sharp.shape == (1, 3, scale * height, scale * width)
        for image in (pair.lr, pair.lr_up):
            assert torch.equal(image, quantize(image))


def test_jpeg_gets_no_value_beyond_its_range(monkeypatch):
    met = []

    def spy(images, quality, codec):
        met.append((float(images.min()), float(images.max())))
        return images

    monkeypatch.setattr(module, "jpeg", spy)
    degradation = build(4, patch_size=None, final_sinc_prob=1)
    for seed in range(10):
        degradation(photo(1), seeded(seed))
    assert len(met) == 20
    assert all(low >= 0 and high <= 1 for low, high in met)


def test_codecs_differ():
    pairs = [build(4, patch_size=10, jpeg=codec)(photo(), seeded()) for codec in ("libjpeg", "simulated")]
    assert not torch.equal(pairs[0].lr, pairs[1].lr)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    pair = build(4, patch_size=10, usm=True)(photo().to(dtype), seeded())
    assert {image.dtype for image in (pair.lr, pair.lr_up, pair.hr, pair.hr_sharp)} == {dtype}


def test_autocast_and_gradients_leave_it_alone():
    hr, degradation = photo().requires_grad_(), build(4, patch_size=10, usm=True)
    outside = degradation(hr, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(outside, degradation(hr, seeded()))
        iterator = degradation.steps(hr, seeded())
        next(iterator)
        assert torch.is_autocast_enabled("cpu")  # between the steps too
        assert torch.equal(list(iterator)[-1].image, outside.lr)
    assert not any(image.requires_grad for image in outside if image is not None)


def test_probabilities_decide():
    hr = photo(1)

    def captions(seed=0, **options):
        return [step.caption for step in build(4, patch_size=None, **options).steps(hr, seeded(seed))]

    for seed in range(5):
        assert sum("Blur" in caption for caption in captions(seed, second_blur_prob=0)) == 1
        assert sum("Blur" in caption for caption in captions(seed, second_blur_prob=1)) == 2
        assert "Last filter: none" in captions(seed, final_sinc_prob=0)
        assert any("Last filter: sinc" in caption for caption in captions(seed, final_sinc_prob=1))
        assert (
            sum("sinc" in caption for caption in captions(seed, first={"sinc_prob": 1}, second={"sinc_prob": 1})) >= 2
        )
        gray_gaussian = {"gaussian_noise_prob": 1, "gray_noise_prob": 1}
        noise = captions(seed, first=gray_gaussian, second=dict.fromkeys(gray_gaussian, 0))
        assert [caption.split(",")[0] for caption in noise if "noise" in caption] == ["Gaussian noise", "Poisson noise"]
        assert [caption.endswith("gray") for caption in noise if "noise" in caption] == [True, False]
        sizes = [
            caption.split(" ")[2].rstrip(",")
            for caption in captions(
                seed, first={"resize_prob": (1, 0, 0), "resize_range": (0.5, 2)}, second={"resize_prob": (0, 1, 0)}
            )
            if "Resize" in caption
        ]
        (first, second, last) = (tuple(map(int, size.split("x"))) for size in sizes)
        assert 72 <= first[0] < 144
        assert 0.3 * 18 - 1 <= second[0] <= 18
        assert last == (18, 16)


def test_ranges_are_those_of_their_round():
    first = {
        "gaussian_noise_prob": 1, "noise_range": (3, 4), "jpeg_range": (40, 45), "blur_sigma": (1, 1.5),
        "blur_kernel_size": 11, "kernel_list": ("generalized_iso",), "kernel_prob": (1,), "betag_range": (2, 2.5),
        "betap_range": (8, 9), "sinc_prob": 0,
    }  # fmt: skip
    second = {
        "gaussian_noise_prob": 0, "poisson_scale_range": (0.5, 0.75), "jpeg_range": (80, 85), "blur_sigma": (0.5, 0.75),
        "blur_kernel_size": 9, "kernel_list": ("plateau_iso", "generalized_iso"), "kernel_prob": (1, 0),
        "betap_range": (3, 3.5), "betag_range": (7, 8), "sinc_prob": 0,
    }  # fmt: skip
    draw = build(4, per="image", first=first, second=second).draw(100, seeded())
    for value, (low, high) in (
        (draw.first.level, (3, 4)), (draw.second.level, (0.5, 0.75)),
        (draw.first.quality, (40, 45)), (draw.second.quality, (80, 85)),
        (draw.first.kernel.sigma1, (1, 1.5)), (draw.second.kernel.sigma1, (0.5, 0.75)),
        (draw.first.kernel.beta, (2, 2.5)), (draw.second.kernel.beta, (3, 3.5)),
    ):  # fmt: skip
        assert value.shape == (100,)
        assert low <= value.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < value.max() < high
    assert (draw.first.kernel.side, draw.second.kernel.side) == (11, 9)
    second = {"gaussian_noise_prob": 1, "noise_range": (5, 5)}
    flipped = build(4, first={"gaussian_noise_prob": 0}, second=second).draw(1, seeded())
    assert 0.05 <= flipped.first.level.item() < 3
    assert flipped.second.level.item() == 5
    other = {"kernel_list": ("generalized_iso",), "kernel_prob": (1,), "betag_range": (7, 8), "sinc_prob": 0}
    assert 7 <= build(4, second=other).draw(1, seeded()).second.kernel.beta.item() < 8


def test_factors_of_the_sizes():
    ranges = {"resize_range": (0.4, 1.5)}, {"resize_range": (0.6, 3)}

    def factors(first, second):
        options = {"first": {"resize_prob": first} | ranges[0], "second": {"resize_prob": second} | ranges[1]}
        draws = [build(4, **options).draw(1, seeded(seed)) for seed in range(60)]
        return [[getattr(draw, name).factor for draw in draws] for name in ("first", "second")]

    down, up = ((0, 10, 0), (0, 1, 0)), ((3, 0, 0), (1, 0, 0))
    for options, bounds in ((down, ((0.4, 1), (0.6, 1))), (up, ((1, 1.5), (1, 3)))):
        for values, (low, high) in zip(factors(*options), bounds, strict=True):
            assert low <= min(values) < low + 0.1 * (high - low)
            assert high - 0.1 * (high - low) < max(values) <= high
    first, second = factors((0, 10, 10), (5, 0, 5))
    assert 15 < sum(factor < 1 for factor in first) < 45
    assert 15 < sum(factor > 1 for factor in second) < 45


def test_no_option_moves_the_draws_of_another():
    plain = build(4, per="image").draw(3, seeded())
    first = {"sinc_prob": 0, "kernel_list": ("iso",), "kernel_prob": (1,)}
    other = build(4, per="image", second_blur_prob=0, first=first)
    changed = other.draw(3, seeded())
    assert changed.place == plain.place
    assert changed.second.factor == plain.second.factor
    assert torch.equal(changed.second.quality, plain.second.quality)
    assert torch.equal(changed.sinc.cutoff, plain.sinc.cutoff)


def test_the_second_round_is_the_milder_one_by_default():
    first, second = RoundOptions(), SecondRoundOptions()
    assert {field.name for field in fields(first) if getattr(first, field.name) != getattr(second, field.name)} == {
        "blur_sigma", "resize_prob", "resize_range", "noise_range", "poisson_scale_range"
    }  # fmt: skip
    assert RealOptions() == RealOptions(first=first, second=second)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"scale": 5}, ValueError, "scale is 5, but must be one of 2, 3, 4"),
        ({"jpeg": "webp"}, ValueError, "jpeg is 'webp', but must be one of 'libjpeg', 'simulated'"),
        ({"per": "pixel"}, ValueError, "per is 'pixel', but must be one of 'batch', 'image'"),
        ({"border": "wrap"}, ValueError, "border is 'wrap'"),
        ({"lr_up_from": "hr"}, ValueError, "lr_up_from is 'hr'"),
        ({"patch_size": 0}, ValueError, "patch_size is 0, but must be at least 1"),
        (
            {"first": {"kernel_list": ("iso", "square")}},
            ValueError,
            "kernel_list is 'square', but must be one of 'iso', 'aniso'",
        ),
        (
            {"second": {"kernel_prob": (1, 2)}},
            ValueError,
            r"kernel_prob is \[1, 2\], but must hold 6 numbers of at least 0",
        ),
        ({"first": {"kernel_prob": (0,) * 6}}, ValueError, "kernel_prob is .*, and not all 0"),
        ({"first": {"kernel_prob": 0.5}}, TypeError, "kernel_prob is 0.5, but must be a list of 6 numbers"),
        ({"first": {"resize_prob": (1, 1)}}, ValueError, r"resize_prob is \[1, 1\], but must hold 3 numbers"),
        (
            {"second": {"resize_prob": (1, 1, -1)}},
            ValueError,
            "resize_prob is .*, but must hold 3 numbers of at least 0",
        ),
        ({"second": {"resize_prob": (1, 1, "a")}}, TypeError, r"resize_prob\[2\] is 'a', but must be a number"),
        ({"first": {"resize_range": (0, 1)}}, ValueError, r"resize_range is \(0, 1\), but must be positive"),
        ({"first": {"blur_kernel_size": 20}}, ValueError, "blur_kernel_size is 20, but must be odd"),
        ({"second": {"blur_kernel_size": 5}}, ValueError, "blur_kernel_size is 5, but must be at least 7"),
        ({"second": {"blur_sigma": (0, 1)}}, ValueError, r"blur_sigma is \(0, 1\), but must be positive"),
        ({"first": {"betag_range": (2, 1)}}, ValueError, "betag_range is .* in this order"),
        ({"first": {"noise_range": (-1, 1)}}, ValueError, "noise_range is .* low at least 0"),
        ({"second": {"poisson_scale_range": 3}}, TypeError, "poisson_scale_range is 3, but must be a pair"),
        ({"first": {"jpeg_range": (0, 50)}}, ValueError, "jpeg_range is .* low at least 1"),
        ({"second": {"jpeg_range": (30, 101)}}, ValueError, r"jpeg_range is \(30, 101\), but must be within 1 and 100"),
        ({"first": {"sinc_prob": 1.5}}, ValueError, "sinc_prob is 1.5, but must be within 0 and 1"),
        ({"second": {"gray_noise_prob": -0.1}}, ValueError, "gray_noise_prob is -0.1, but must be within 0 and 1"),
        ({"final_sinc_prob": "often"}, TypeError, "final_sinc_prob is 'often', but must be a number"),
        ({"second_blur_prob": 2}, ValueError, "second_blur_prob is 2, but must be within 0 and 1"),
    ],
)
def test_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        build(**options)


@pytest.mark.parametrize(
    ("hr", "generator", "options", "error", "match"),
    [
        (photo(), 3, {}, TypeError, "generator is 3, but must be a torch.Generator"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), seeded(), {}, TypeError, "hr has dtype torch.uint8"),
        (torch.zeros(1, 1, 64, 64), seeded(), {}, ValueError, r"hr has shape \(1, 1, 64, 64\), but must be \(B, 3"),
        (torch.zeros(0, 3, 64, 64), seeded(), {}, ValueError, "hr .* must hold at least one image"),
        (
            torch.zeros(1, 3, 10, 64),
            seeded(),
            {"patch_size": None},
            ValueError,
            r"hr has shape \(1, 3, 10, 64\), but must be at least 11 pixels high and wide for a 21x21 kernel",
        ),
        (
            torch.zeros(1, 3, 39, 64),
            seeded(),
            {},
            ValueError,
            r"hr has shape \(1, 3, 39, 64\), but must be at least 40 pixels high and wide for an LR patch of 10 at",
        ),
    ],
)
def test_bad_calls(hr, generator, options, error, match):
    degradation = build(4, **{"patch_size": 10} | options)
    with pytest.raises(error, match=match):
        degradation(hr, generator)
    with pytest.raises(error, match=match):
        next(degradation.steps(hr, generator))


def test_a_draw_of_other_images():
    degradation = build(4, patch_size=10, per="image")
    message = "draw has parameters for 3 images, but must have them for one or for 2, as many as hr has"
    with pytest.raises(ValueError, match=message):
        degradation.apply(photo(), degradation.draw(3, seeded()), seeded())


@pytest.mark.slow
def test_hundreds_of_batches_are_finite_and_in_range():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for each other in images of this size
    sizes = [(24, 24), (29, 43), (61, 31), (32, 27), (25, 52)]
    for seed in range(420):
        scale = SCALES[seed % 3]
        degradation = build(
            scale,
            per=("batch", "image")[seed // 3 % 2],
            jpeg=("libjpeg", "simulated")[seed // 6 % 2],
            usm=seed % 7 == 0,
            patch_size=(6, None)[seed // 12 % 2],
        )
        hr = photo(2, *sizes[seed % 5], seed=seed)
        for image in degradation(hr, seeded(seed)):
            if image is not None:
                assert image.isfinite().all()
                assert image.min() >= 0
                assert image.max() <= 1
    torch.set_num_threads(threads)


@pytest.mark.gpu
@pytest.mark.parametrize("per", ["batch", "image"])
def test_on_a_gpu_only_the_draw_waits_for_it(per):
    degradation = build(4, per=per, patch_size=10, usm=True)
    hr, generator = photo().cuda(), torch.Generator("cuda").manual_seed(0)
    for seed in range(20):
        generator.manual_seed(seed)
        expected = degradation(hr, generator)
        generator.manual_seed(seed)
        draw = degradation.draw(2, generator)
        torch.cuda.set_sync_debug_mode("error")
        try:
            pair = degradation.apply(hr, draw, generator)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert same(pair, expected)
        assert pair.lr.device == hr.device
