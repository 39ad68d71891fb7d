"""The sheet of details of photos."""

import numpy as np
import pytest
from PIL import Image

from mrda.paper.studies import sheet


class Inverted:
    """Enlarges by 4 and inverts."""

    scale = 4

    def __call__(self, image):
        return (255 - image).repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture(autouse=True)
def known_weights(monkeypatch):
    monkeypatch.setattr(sheet.Upscaler, "from_pretrained", lambda name, dtype: Inverted())


def photo(path, height=80, width=600, corner=(22, 44), value=200):
    """A gray photo with one fine square, in a colour that tells it from others."""
    pixels = np.full((height, width, 3), 100, np.uint8)
    top, left = corner
    pixels[top : top + sheet.SIDE, left : left + sheet.SIDE] = np.uint8(
        np.indices((sheet.SIDE, sheet.SIDE)).sum(axis=0)[..., None] // 2 % 2 * value
    )
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("corner", [(22, 44), (0, 0), (22, 550)])
def test_the_finest_square_is_found_and_stays_in_what_is_cut(tmp_path, corner):
    image = np.asarray(Image.open(photo(tmp_path / "a.png", corner=corner)))
    (top, left), size = sheet.finest(image), sheet.SIDE
    assert abs(top - corner[0]) <= size // 2
    assert abs(left - corner[1]) <= size // 2
    cut, (y, x) = sheet.around(image, top, left)
    assert cut.shape == (80, sheet.LARGEST, 3)
    np.testing.assert_array_equal(cut[y : y + size, x : x + size], image[top : top + size, left : left + size])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_each_photo_has_its_row(tmp_path, suffix):
    for name in "abc":
        photo(tmp_path / f"{name}.png")
    out = tmp_path / f"sheet.{suffix}"
    sheet.main([str(tmp_path / f"{name}.png") for name in "abc"] + ["-o", str(out), "--across", "2"])
    image = np.asarray(Image.open(out).convert("RGB"), np.int16)
    cell = 4 * sheet.SIDE
    line, step = sheet.LINE, cell + sheet.MARGIN
    assert image.shape[0] == line + 2 * (step + line)
    first = image[2 * line : 2 * line + cell]
    bicubic, network = first[:, :cell], first[:, step : step + cell]
    assert bicubic.std() > 20
    assert abs((bicubic + network).mean() - 255) < 8
    assert (image[-cell // 2 :, image.shape[1] // 2 + 20 :] == 255).all()  # three photos leave the fourth place empty


def test_photos_may_be_reduced_first_and_tiny_ones_are_refused(tmp_path, capsys):
    path = photo(tmp_path / "a.png", height=200, width=240)
    sheet.main([str(path), "-o", str(tmp_path / "sheet.png"), "--reduced-by", "2"])
    with pytest.raises(SystemExit):
        sheet.main([str(path), "-o", str(tmp_path / "sheet.png"), "--reduced-by", "8"])
    assert "a photo has 30 x 25 px, but the sheet shows 44 x 44: leave it out" in capsys.readouterr().err
