import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.degradations.resample import bicubic
from mrda.evaluation.metrics import psnr_y
from mrda.networks import MRDAStudent, RDAConv
from mrda.paper.figures.modulation import HEADER, Modulation, local_texture, modulate, save_modulation
from mrda.photo.images import to_array


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4)


@pytest.fixture
def lr():
    return torch.rand(1, 3, 12, 17, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def row(**changes):
    generator = np.random.default_rng(0)
    lr_up, sr = generator.integers(0, 256, (2, 24, 34, 3), dtype=np.uint8)
    fields = {
        "name": "$noise_",
        "scale": 2,
        "lr_up": lr_up,
        "sr": sr,
        "modulation": generator.random((12, 17), dtype=np.float32),
        "texture": generator.random((12, 17)),
    }
    return Modulation(**{**fields, **changes})


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_map_is_the_mean_of_the_masks(network, lr):
    masks = []

    def record(module, arguments):
        masks.append(torch.sigmoid(module.mask(arguments[0])))

    hooks = [module.register_forward_pre_hook(record) for module in network.modules() if isinstance(module, RDAConv)]
    with torch.no_grad():
        sr = network(lr)
    for hook in hooks:
        hook.remove()
    assert len(masks) == 4
    made = modulate(network, lr, name="x")
    # Values below 1 in float32, of which another kernel may sum 8 channels in another order, four times deep.
    np.testing.assert_allclose(made.modulation, torch.stack(masks).mean(dim=0)[0, 0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(made.sr, to_array(sr))
    np.testing.assert_array_equal(made.lr_up, to_array(bicubic(lr, 2)))
    assert made.psnr is None
    assert made.psnr_bicubic is None


def test_psnr_where_there_is_hr(network, lr):
    hr = torch.rand(1, 3, 24, 34, generator=torch.Generator().manual_seed(1))
    made = modulate(network, lr, name="x", hr=hr, sigma=1.5)
    with torch.no_grad():
        assert made.psnr == float(psnr_y(network(lr), hr, 2))
    assert made.psnr_bicubic == float(psnr_y(bicubic(lr, 2), hr, 2))


def test_texture_is_the_standard_deviation_in_the_window(lr):
    texture = local_texture(lr)[0, 0].numpy()
    gray = np.pad(lr[0].double().mean(dim=0).numpy(), 3, mode="reflect")
    expected = np.array([[gray[i : i + 7, j : j + 7].std() for j in range(17)] for i in range(12)])
    # E(x^2) - E(x)^2 of values below 1 is off by some eps = 2e-16; its root, which is above 0.1, by less than 1e-14.
    assert expected.min() > 0.1
    np.testing.assert_allclose(texture, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3)])
def test_texture_of_tiny_images(size):
    assert local_texture(torch.rand(1, 3, *size)).shape == (1, 1, *size)


def test_correlation_is_pearsons():
    made = row()
    expected = np.corrcoef(made.modulation.ravel().astype(np.float64), made.texture.ravel())[0, 1]
    assert made.texture_correlation == pytest.approx(expected, rel=1e-12)
    assert row(texture=3 * made.modulation + 1).texture_correlation == pytest.approx(1)
    assert row(texture=-made.modulation).texture_correlation == pytest.approx(-1)
    assert row(texture=np.full((12, 17), 0.3)).texture_correlation is None
    assert row(modulation=np.full((12, 17), 0.3, np.float32)).texture_correlation is None


def test_enlarged_map_keeps_within_its_range():
    made = row()
    assert made.on_hr_grid.shape == (24, 34)
    assert made.modulation.min() <= made.on_hr_grid.min() < made.on_hr_grid.max() <= made.modulation.max()
    # Bilinear, pixel centres at halves: HR pixel 1 lies a quarter of the way from LR pixel 0 to 1.
    first, second = made.modulation[0, :2]
    assert made.on_hr_grid[0, 1] == pytest.approx(0.75 * first + 0.25 * second, rel=1e-6)


def test_csv_has_the_numbers(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        row(),
        row(name="b", sigma=1.6, psnr_bicubic=20.5, psnr=21.25, cropped=True),
        row(name="flat", modulation=np.full((12, 17), 0.25, np.float32)),
    ]
    save_modulation(rows, tmp_path / "f.png")
    table = rows_of(tmp_path / "f.csv")
    assert tuple(table[0]) == HEADER
    assert [one["photo"] for one in table] == ["$noise_", "b", "flat"]
    for one, made in zip(table, rows, strict=True):
        values = made.modulation.astype(np.float64)
        assert [float(one[f"map_{name}"]) for name in ("min", "mean", "max")] == [
            values.min(),
            values.mean(),
            values.max(),
        ]
        assert (one["width"], one["height"], one["scale"]) == ("34", "24", "2")
    assert float(table[0]["texture_correlation"]) == rows[0].texture_correlation
    assert table[2]["texture_correlation"] == ""
    assert [one["cropped"] for one in table] == ["false", "true", "false"]
    assert (table[0]["sigma"], table[0]["psnr_y"], table[0]["psnr_y_bicubic"]) == ("", "", "")
    assert (table[1]["sigma"], table[1]["psnr_y"], table[1]["psnr_y_bicubic"]) == ("1.6", "21.25", "20.5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.csv", "f.png"]


def test_every_part_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    black = np.zeros((24, 34, 3), np.uint8)
    ramp = np.linspace(0, 1, 204, dtype=np.float32).reshape(12, 17)
    pictures = []
    for changes in ({}, {"name": "x"}, {"lr_up": black}, {"sr": black}, {"modulation": ramp}, {"psnr": 20.0}):
        save_modulation([row(**changes)], tmp_path / "f.png")
        with Image.open(tmp_path / "f.png") as picture:
            pictures.append(picture.tobytes())
    assert len(set(pictures)) == len(pictures)


def test_networks_without_masks_and_with_nan_are_refused(network, lr, tmp_path):
    static = MRDAStudent(scale=2, num_feat=8, num_blocks=1, den_width=4, conv_type="static")
    with pytest.raises(ValueError, match="conv_type 'static', but only 'rda' has masks"):
        modulate(static, lr, name="x")
    with torch.no_grad():
        network.rdan.blocks[0].conv1.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite values of x"):
        modulate(network, lr, name="x")
    with pytest.raises(ValueError, match="one photo at least"):
        save_modulation([], tmp_path / "f.png")
