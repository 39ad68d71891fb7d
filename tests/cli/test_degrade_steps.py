import numpy as np
import pytest
import torch

from mrda.cli import degrade_steps as module
from mrda.cli.degrade_steps import classic_steps, draw_steps
from mrda.degradations.classic import ClassicDegradation, ClassicOptions, degrade
from mrda.degradations.real import Step
from mrda.photo.images import to_array

PANEL, GAP, CAPTION = 256, 10, 36


def noise(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def panel(picture, index, columns=4):
    top = GAP + CAPTION + index // columns * (CAPTION + PANEL + GAP)
    left = GAP + index % columns * (PANEL + GAP)
    return np.asarray(picture)[top : top + PANEL, left : left + PANEL]


def caption(picture, index, columns=4):
    top = GAP + index // columns * (CAPTION + PANEL + GAP)
    left = GAP + index % columns * (PANEL + GAP)
    return np.asarray(picture)[top : top + CAPTION, left : left + PANEL]


@pytest.mark.parametrize("downsample", ["bicubic", "sfold"])
def test_classic_steps_lead_to_lr(downsample):
    hr = noise(40, 48)
    degradation = ClassicDegradation(
        2, ClassicOptions(kernel="anisotropic", noise_range=(10, 20), downsample=downsample)
    )
    steps = list(classic_steps(degradation, hr, torch.Generator().manual_seed(1)))
    degraded = degradation(hr, torch.Generator().manual_seed(1))
    assert torch.equal(steps[0].image, hr)
    assert torch.equal(steps[1].kernel, degraded.kernel)
    assert torch.equal(steps[2].image, degrade(hr, degraded.kernel, 2, downsample=downsample).lr)
    assert torch.equal(steps[3].image, degraded.lr)
    how = "bicubic" if downsample == "bicubic" else "one pixel of 2x2"
    level = degraded.noise_level.item()
    assert [step.caption for step in steps] == [
        "HR",
        "Blur: 21x21 kernel",
        f"Downsample to 24x20, {how}",
        f"Gaussian noise, sigma {level:.1f}, and 8 bits: LR",
    ]
    # The blurred image, of which every second pixel is LR where nothing else is done.
    sampled = degrade(hr, degraded.kernel, 2, downsample="sfold").lr
    # Rounded to 8 bits: half a level, and the two ways to filter differ by float32's rounding.
    torch.testing.assert_close(steps[1].image[..., ::2, ::2], sampled, rtol=0, atol=0.5 / 255 + 1e-6)


def test_classic_steps_without_blur_and_noise():
    steps = list(classic_steps(ClassicDegradation(4, ClassicOptions(kernel="none")), noise(16, 16), torch.Generator()))
    assert [step.caption for step in steps] == ["HR", "Downsample to 4x4, bicubic, and 8 bits: LR"]


def test_panels_show_the_field_at_every_size():
    hr = noise(300, 400)
    hr[..., 40:296, 128:384] *= 4  # most of the detail, also after clipping
    lr = torch.zeros(1, 3, 75, 100)
    lr[..., 10:74, 32:96] = noise(64, 64, seed=1)
    picture = draw_steps([Step("HR", hr, None), Step("LR", lr, None)])
    assert picture.size == (3 * (PANEL + GAP) + GAP, CAPTION + PANEL + 2 * GAP)
    top, left, size = module.most_detailed_crop(to_array(hr), 256)
    assert np.array_equal(panel(picture, 1), to_array(hr)[top : top + size, left : left + size])
    # A pixel of LR is a square of 4; where the field does not begin at one, the first is cut.
    shown, pixels = panel(picture, 2), to_array(lr)
    rows, columns = (np.arange(PANEL) + 0.5) / 4 + top / 4, (np.arange(PANEL) + 0.5) / 4 + left / 4
    assert np.array_equal(shown, pixels[rows.astype(int)][:, columns.astype(int)])


def test_the_whole_photo_has_a_frame_around_the_field():
    hr = torch.zeros(1, 3, 256, 512)
    hr[..., 200:] = noise(256, 312)
    top, left, _ = module.most_detailed_crop(to_array(hr), 256)
    shown = panel(draw_steps([Step("HR", hr, None)]), 0)
    yellow = (shown == (255, 212, 0)).all(-1)
    rows, columns = np.nonzero(yellow)
    # Half size, with 64 rows of white above.
    assert (rows.min(), rows.max()) == (64 + top // 2, 64 + top // 2 + 127)
    assert (columns.min(), columns.max()) == (round(left / 2), round(left / 2) + 127)
    assert (shown[:64] == 255).all()


def test_kernels_stand_in_the_corner():
    kernel = torch.zeros(2, 5, 5, dtype=torch.float64)
    kernel[0, 1, 3], kernel[0, 4, 0], kernel[1] = 0.45, -0.05, 1.0
    shown = panel(draw_steps([Step("HR", noise(64, 64), kernel)]), 1)
    thumbnail = shown[-16:-1, -16:-1, 0].reshape(5, 3, 5, 3)
    assert (thumbnail == thumbnail[:, :1, :, :1]).all()
    expected = np.full((5, 5), round(255 * 0.1))
    expected[1, 3], expected[4, 0] = 255, 0
    assert np.array_equal(thumbnail[:, 0, :, 0], expected)
    assert (shown[-17, -17:] == (255, 212, 0)).all()
    flat = panel(draw_steps([Step("HR", noise(64, 64), torch.ones(1, 3, 3))]), 1)
    assert (flat[-10:-1, -10:-1] == 0).all()


def test_a_large_kernel_leaves_most_of_its_panel():
    image = noise(64, 64)
    kernel = torch.zeros(1, 301, 301)
    kernel[0, :, 150:] = 1
    shown = panel(draw_steps([Step("HR", image, kernel)]), 1)
    assert (shown[-129:-1, -65:-1] == 255).all()
    assert (shown[-129:-1, -129:-65] == 0).all()
    assert np.array_equal(shown[:126], to_array(image).repeat(4, 0).repeat(4, 1)[:126])


def test_values_beyond_black_and_white_are_clipped():
    shown = panel(draw_steps([Step("HR", noise(8, 8), None), Step("sharp", 10 * noise(8, 8) - 5, None)]), 2)
    assert set(np.unique(shown[::32, ::32])) >= {0, 255}


def test_captions_stand_right_above_their_panels():
    steps = [Step(text, noise(8, 8), None) for text in ("HR", "word " * 12, "word " * 100)]
    picture = draw_steps(steps)
    inked = [(caption(picture, index) < 128).all(-1).any(1) for index in range(1, 4)]
    assert not inked[0][:18].any()
    assert inked[0][18:].any()
    assert inked[1][:18].any()
    assert inked[1][18:].any()
    gaps = np.asarray(picture)[:, PANEL + GAP : PANEL + 2 * GAP]
    assert (gaps[:CAPTION] == 255).all()  # no caption runs into its neighbour


def test_words_are_wrapped():
    assert module._wrap(["aaa", "bbb", "ccc"], lambda text: 100 * len(text.split())) == ["aaa bbb", "ccc"]
    assert module._wrap(["long"], lambda text: 1000) == ["long"]


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="must have at least one step"):
        draw_steps([])
