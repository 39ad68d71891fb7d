import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mrda.degradations import (
    ClassicDegradation,
    ClassicOptions,
    anisotropic_gaussian,
    bicubic,
    crop_to_multiple,
    degrade,
    isotropic_gaussian,
    quantize,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photo(batch=2, height=24, width=36, dtype=torch.float64):
    return torch.rand(batch, 3, height, width, generator=seeded(9), dtype=dtype)


def correlate_by_definition(plane, kernel):
    reach = kernel.shape[0] // 2
    padded = np.pad(plane, reach, mode="reflect")
    out = np.zeros_like(plane)
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            out += kernel[row, column] * padded[row : row + plane.shape[0], column : column + plane.shape[1]]
    return out


@pytest.mark.parametrize("shared", [True, False])
def test_blur_then_shrink(shared):
    hr = photo()
    kernels = torch.rand(2, 5, 5, generator=seeded(1), dtype=torch.float64)
    kernels = kernels / kernels.sum(dim=(1, 2), keepdim=True)
    given = kernels[0] if shared else kernels
    blurred = np.stack(
        [
            [correlate_by_definition(plane, kernels[0 if shared else b].numpy()) for plane in hr[b].numpy()]
            for b in range(2)
        ]
    )
    lr = bicubic(torch.from_numpy(blurred), 1 / 4)
    degraded = degrade(hr, given, 4)
    assert torch.equal(degraded.lr, quantize(lr))
    assert torch.equal(degraded.lr_up, quantize(bicubic(lr, 4)))
    sfold = degrade(hr, given, 4, downsample="sfold")
    assert torch.equal(sfold.lr, quantize(torch.from_numpy(blurred[..., ::4, ::4].copy())))
    mirrored = degrade(hr, given, 4, border="mirror")
    assert torch.equal(mirrored.lr, quantize(bicubic(torch.from_numpy(blurred), 1 / 4, "mirror")))
    assert degraded.kernel.shape == (1 if shared else 2, 5, 5)
    assert torch.equal(degraded.noise_level, torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_no_kernel_is_the_bicubic_degradation(scale):
    hr = photo()
    degraded = degrade(hr, None, scale)
    assert degraded.kernel is None
    assert torch.equal(degraded.lr, quantize(bicubic(hr, 1 / scale)))
    delta = degrade(hr, isotropic_gaussian(0.0), scale)
    assert torch.equal(delta.lr, degraded.lr)


def test_kernels_are_not_flipped():
    hr = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    hr[..., 4, 4] = 1
    kernel = torch.zeros(3, 3, dtype=torch.float64)
    kernel[0, 1] = 1  # correlation: each pixel takes the one above it, so the image moves down
    moved = degrade(hr, kernel, 2, downsample="sfold")
    assert moved.lr.sum() == 0
    hr = hr.roll(-1, dims=2)
    assert degrade(hr, kernel, 2, downsample="sfold").lr[0, 0, 2, 2] == 1


def test_noise_is_added_before_rounding_and_reaches_lr_up_unclipped():
    hr = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    degraded = degrade(hr, None, 4, noise_level=50.0, generator=seeded(3))
    noise = 50 / 255 * torch.randn(1, 3, 8, 8, generator=seeded(3), dtype=torch.float64)
    assert torch.equal(degraded.lr, quantize(noise))
    assert torch.equal(degraded.lr_up, quantize(bicubic(noise, 4)))
    assert not torch.equal(degraded.lr_up, quantize(bicubic(degraded.lr, 4)))


def test_noise_levels_per_image():
    hr = torch.full((2, 3, 16, 16), 0.5, dtype=torch.float64)
    levels = torch.tensor([0.0, 10.0])
    degraded = degrade(hr, None, 4, noise_level=levels, generator=seeded())
    assert torch.equal(degraded.lr[0], quantize(hr[0, :, :4, :4]))
    assert degraded.lr[1].std() > 0
    assert torch.equal(degraded.noise_level, levels.double())


def test_results_are_eight_bit():
    for image in degrade(photo(), isotropic_gaussian(1.0), 4, noise_level=30, generator=seeded())[:2]:
        assert torch.equal(quantize(image), image)
        assert image.min() >= 0
        assert image.max() <= 1


def test_autocast_leaves_it_alone():
    hr = photo(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = degrade(hr, isotropic_gaussian(2.0), 4)
    outside = degrade(hr, isotropic_gaussian(2.0), 4)
    assert torch.equal(inside.lr, outside.lr)
    assert torch.equal(inside.lr_up, outside.lr_up)


@pytest.mark.parametrize("kernel", ["isotropic", "anisotropic", "none"])
@pytest.mark.parametrize("per", ["batch", "image"])
@pytest.mark.parametrize("noise_range", [(0, 0), (0, 25), (5, 25)])
def test_drawn_degradations_are_repeatable_and_equal_the_fixed_ones(kernel, per, noise_range):
    hr = photo(batch=3, dtype=torch.float32)
    degradation = ClassicDegradation(4, ClassicOptions(kernel=kernel, per=per, noise_range=noise_range))
    whole = seeded(1)
    first, again = degradation(hr, whole), degradation(hr, seeded(1))
    other = degradation(hr, seeded(2))
    assert torch.equal(first.lr, again.lr)
    assert torch.equal(first.lr_up, again.lr_up)
    assert torch.equal(first.lr, other.lr) == (kernel == "none" and noise_range == (0, 0))
    count = 3 if per == "image" else 1
    assert first.noise_level.shape == (count,)
    assert ((first.noise_level >= noise_range[0]) & (first.noise_level <= noise_range[1])).all()
    if kernel == "none":
        assert first.kernel is None
    else:
        assert first.kernel.shape == (count, 21, 21)
        assert first.kernel.dtype == torch.float32
    generator = seeded(1)
    draws = {"none": 1, "isotropic": 2, "anisotropic": 4}[kernel]
    for _ in range(draws):
        torch.rand(count, generator=generator, dtype=torch.float64)
    fixed = degrade(hr, first.kernel, 4, noise_level=first.noise_level, generator=generator)
    assert torch.equal(fixed.lr, first.lr)
    assert torch.equal(generator.get_state(), whole.get_state())  # no noise is drawn where there is none


def test_ranges_and_the_meaning_of_widths():
    hr = photo(batch=1)
    point = {"sigma_range": (2.25, 2.25), "theta_range": (0.3, 0.3), "kernel": "anisotropic"}
    sigma = ClassicDegradation(4, ClassicOptions(**point))(hr, seeded())
    # Kernel weights below 1, computed in float64 and rounded to float32 by the float call.
    budget = {"rtol": 0, "atol": 2**-24}
    torch.testing.assert_close(sigma.kernel[0], anisotropic_gaussian(2.25, 2.25, 0.3).double(), **budget)
    eigen = ClassicDegradation(4, ClassicOptions(**point, aniso_param="eigen"))(hr, seeded())
    torch.testing.assert_close(eigen.kernel[0], isotropic_gaussian(1.5).double(), **budget)
    for scale in (2, 3, 4):
        degradation = ClassicDegradation(scale)
        assert degradation.sigma_range == (0.2, scale)
    assert ClassicDegradation(4).options.theta_range == (0.0, math.pi)


def test_draws_fill_their_range():
    hr = torch.rand(400, 3, 2, 2)
    degradation = ClassicDegradation(2, ClassicOptions(per="image", kernel_size=3, noise_range=(5, 25)))
    levels = degradation(hr, seeded()).noise_level
    # 400 uniform draws on a range of 20: the extremes lie within 1 of its ends but for a chance of 1e-9 each.
    assert 5 <= levels.min() < 6
    assert 24 < levels.max() <= 25


def test_lr_up_from():
    hr = photo()
    generators = [seeded(4) for _ in range(3)]
    default, raw, quantised = (
        degrade(hr, isotropic_gaussian(1.0), 4, noise_level=9, generator=generator, **options)
        for generator, options in zip(generators, [{}, {"lr_up_from": "raw"}, {"lr_up_from": "quantised"}], strict=True)
    )
    assert torch.equal(default.lr_up, raw.lr_up)
    assert torch.equal(raw.lr, quantised.lr)
    assert torch.equal(quantised.lr_up, quantize(bicubic(quantised.lr, 4)))
    assert not torch.equal(quantised.lr_up, raw.lr_up)
    drawn = ClassicDegradation(4, ClassicOptions(lr_up_from="quantised"))(hr, seeded())
    assert torch.equal(drawn.lr_up, quantize(bicubic(drawn.lr, 4)))


class Operations(TorchDispatchMode):
    """Counts torch operations, and those among them that hand a tensor's value to Python."""

    def __init__(self):
        super().__init__()
        self.total = 0
        self.looks = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.total += 1
        self.looks += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kernel", ["isotropic", "anisotropic", "none"])
@pytest.mark.parametrize("per", ["batch", "image"])
def test_all_images_at_once_and_no_look_at_the_values(kernel, per):
    degradation = ClassicDegradation(4, ClassicOptions(kernel=kernel, per=per, noise_range=(0, 25)))
    degradation(photo(1), seeded())  # the weights of the resampling are computed once
    counts = []
    for batch in (2, 7):
        with Operations() as operations:
            degradation(photo(batch), seeded())
        assert operations.looks == 0
        counts.append(operations.total)
    assert counts[0] == counts[1]


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["isotropic", "anisotropic"])
def test_on_a_gpu_nothing_waits_for_it(kernel):
    degradation = ClassicDegradation(4, ClassicOptions(kernel=kernel, per="image", noise_range=(0, 25)))
    hr, generator = photo(dtype=torch.float32).cuda(), torch.Generator("cuda").manual_seed(0)
    degradation(hr, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        degraded = degradation(hr, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert degraded.lr.device == hr.device


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_crop_to_multiple(scale):
    hr = photo(height=23, width=29)
    cropped = crop_to_multiple(hr, scale)
    height, width = 23 // scale * scale, 29 // scale * scale
    assert torch.equal(cropped, hr[:, :, :height, :width])


@pytest.mark.parametrize(
    ("hr", "scale", "error", "match"),
    [
        (
            torch.rand(1, 3, 8, 3),
            4,
            ValueError,
            "hr is 8x3, but must be at least 4 pixels high and wide at scale 4",
        ),
        (torch.rand(1, 3, 8, 8), 5, ValueError, "scale is 5, but must be one of 2, 3, 4"),
        (
            torch.ones(1, 3, 8, 8, dtype=torch.uint8),
            4,
            TypeError,
            "hr has dtype torch.uint8, but must be a floating point tensor",
        ),
        (torch.rand(3, 8, 8), 4, ValueError, "hr has shape"),
    ],
)
def test_bad_crop(hr, scale, error, match):
    with pytest.raises(error, match=match):
        crop_to_multiple(hr, scale)


BLUR = isotropic_gaussian(1.0)


@pytest.mark.parametrize(
    ("hr", "kernel", "options", "error", "match"),
    [
        (
            torch.rand(1, 3, 8, 8),
            BLUR,
            {},
            ValueError,
            "hr .* must be at least 11 pixels high and wide for a 21x21",
        ),
        (torch.rand(1, 3, 16, 18), BLUR, {}, ValueError, "hr .* height and width must be divisible by 4"),
        (torch.rand(0, 3, 16, 16), BLUR, {}, ValueError, "hr .* must hold at least one image"),
        (torch.rand(1, 1, 16, 16), BLUR, {}, ValueError, r"hr has shape \(1, 1, 16, 16\), but must be \(B, 3, H, W\)"),
        (
            torch.ones(1, 3, 16, 16, dtype=torch.uint8),
            BLUR,
            {},
            TypeError,
            "hr has dtype torch.uint8, but must be a floating point",
        ),
        (
            torch.rand(1, 3, 16, 16),
            torch.ones(4, 4),
            {},
            ValueError,
            r"kernel has shape \(4, 4\), but must be .* with k odd",
        ),
        (torch.rand(1, 3, 16, 16), torch.ones(3, 5), {}, ValueError, "kernel has shape"),
        (
            torch.rand(2, 3, 16, 16),
            torch.ones(3, 3, 3),
            {},
            ValueError,
            r"\(k, k\) or \(2, k, k\) with k odd",
        ),
        (torch.rand(1, 3, 16, 16), torch.ones(3), {}, ValueError, "kernel has shape"),
        (
            torch.rand(1, 3, 16, 16),
            torch.ones(3, 3, dtype=torch.int32),
            {},
            TypeError,
            "kernel has dtype torch.int32, but must be a floating",
        ),
        (torch.rand(1, 3, 16, 16), 1.0, {}, TypeError, "kernel is float, but must be a torch.Tensor"),
        (
            torch.rand(1, 3, 16, 16),
            BLUR,
            {"noise_level": 5.0},
            TypeError,
            "generator is None, but must be a torch.Generator",
        ),
        (torch.rand(1, 3, 16, 16), BLUR, {"noise_level": -5.0}, ValueError, r"noise_level is -5\.0, but must"),
        (
            torch.rand(1, 3, 16, 16),
            BLUR,
            {"noise_level": math.nan},
            ValueError,
            "noise_level is nan, but must be finite",
        ),
        (
            torch.rand(1, 3, 16, 16),
            BLUR,
            {"noise_level": torch.ones(2)},
            ValueError,
            r"noise_level has shape \(2,\), but must be \(1,\) or \(1,\)",
        ),
        (torch.rand(1, 3, 16, 16), BLUR, {"noise_level": "x"}, TypeError, "noise_level is 'x', but must be a number"),
        (
            torch.rand(1, 3, 16, 16),
            BLUR,
            {"noise_level": torch.tensor([math.inf])},
            ValueError,
            "noise_level is .*inf.* but must be finite",
        ),
        (torch.rand(1, 3, 16, 16), BLUR.to("meta"), {}, ValueError, "kernel is on meta, but must be on cpu as hr is"),
        (torch.rand(1, 3, 16, 16), BLUR * math.nan, {}, ValueError, "kernel has NaN or infinite values"),
        (torch.rand(1, 3, 16, 16), BLUR / 0, {}, ValueError, "kernel has NaN or infinite values"),
        (
            torch.rand(1, 3, 16, 16),
            BLUR,
            {"downsample": "area"},
            ValueError,
            "downsample is 'area', but must be one of",
        ),
        (torch.rand(1, 3, 16, 16), BLUR, {"border": "wrap"}, ValueError, "border is 'wrap', but must be one of"),
        (
            torch.rand(1, 3, 16, 16),
            BLUR,
            {"lr_up_from": "hr"},
            ValueError,
            "lr_up_from is 'hr', but must be one of 'raw', 'quantised'",
        ),
    ],
)
def test_bad_degrade(hr, kernel, options, error, match):
    with pytest.raises(error, match=match):
        degrade(hr, kernel, 4, **options)


def test_the_smallest_image_that_can_be_blurred():
    assert degrade(torch.rand(1, 3, 12, 12), BLUR, 3).lr.shape == (1, 3, 4, 4)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"kernel": "box"},
            ValueError,
            "kernel is 'box', but must be one of 'isotropic', 'anisotropic', 'none'",
        ),
        ({"per": "pixel"}, ValueError, "per is 'pixel', but must be one of"),
        ({"aniso_param": "variance"}, ValueError, "aniso_param is 'variance', but must be one of"),
        ({"downsample": "area"}, ValueError, "downsample is 'area', but must be one of"),
        ({"border": "wrap"}, ValueError, "border is 'wrap', but must be one of"),
        ({"lr_up_from": "hr"}, ValueError, "lr_up_from is 'hr', but must be one of"),
        ({"kernel_size": 20}, ValueError, "kernel_size is 20, but must be odd"),
        (
            {"sigma_range": (2.0, 1.0)},
            ValueError,
            r"sigma_range is \(2\.0, 1\.0\), but must be \(low, high\) in this order",
        ),
        ({"sigma_range": (-1.0, 1.0)}, ValueError, "sigma_range is .* with low at least 0"),
        ({"sigma_range": (0.2, math.nan)}, ValueError, r"sigma_range\[1\] is nan, but must be finite"),
        ({"sigma_range": 2.0}, TypeError, r"sigma_range is 2\.0, but must be a pair \(low, high\)"),
        ({"sigma_range": ()}, TypeError, r"sigma_range is \(\), but must be a pair \(low, high\)"),
        ({"sigma_range": ("a", 1)}, TypeError, r"sigma_range\[0\] is 'a', but must be a number"),
        ({"noise_range": (None, 1)}, TypeError, r"noise_range\[0\] is None, but must be a number"),
        ({"noise_range": (0.0, math.inf)}, ValueError, r"noise_range\[1\] is inf, but must be finite"),
        ({"theta_range": (math.nan, 1.0)}, ValueError, r"theta_range\[0\] is nan, but must be finite"),
    ],
)
def test_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        ClassicOptions(**options)


def test_a_scale_that_no_network_has():
    with pytest.raises(ValueError, match="scale is 8, but must be one of"):
        ClassicDegradation(8)


def test_bad_call():
    with pytest.raises(TypeError, match=r"generator is 3, but must be a torch\.Generator for random numbers"):
        ClassicDegradation()(photo(), 3)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ClassicDegradation()(torch.rand(1, 3, 8, 8), seeded())
    with pytest.raises(ValueError, match="must hold at least one image"):
        ClassicDegradation()(torch.rand(0, 3, 16, 16), seeded())
    with pytest.raises(ValueError, match="must be divisible by 4"):
        ClassicDegradation()(torch.rand(1, 3, 18, 16), seeded())
