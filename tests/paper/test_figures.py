import sys

import numpy as np
import pytest
from PIL import Image

from mrda.paper.figures import Comparison, save_comparison
from mrda.photo.crops import most_detailed_crop


def comparison(**changes) -> Comparison:
    generator = np.random.default_rng(0)
    hr, sr, enlarged = generator.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    fields = {
        "caption": "noise, blur blurred",
        "bicubic": enlarged,
        "sr": sr,
        "hr": hr,
        "modulation": generator.random((10, 15)),
        "psnr_bicubic": 20.0,
        "psnr_sr": 21.0,
        "crop": (4, 8, 32),
    }
    return Comparison(**{**fields, **changes})


@pytest.mark.parametrize(("row", "column"), [(8, 12), (40, 60), (8, 60), (40, 12)])
def test_crop_finds_the_strongest_detail(row, column):
    generator = np.random.default_rng(0)
    image = np.full((60, 80, 3), 90, np.uint8)
    for other_row in (8, 40):
        for other_column in (12, 60):
            image[other_row : other_row + 8, other_column : other_column + 8] += 20
    image[row : row + 8, column : column + 8] = generator.integers(0, 256, (8, 8, 3))
    top, left, size = most_detailed_crop(image, 16)
    assert size == 16
    # Central differences reach one pixel beyond the patch.
    assert top <= row - 1
    assert left <= column - 1
    assert top + size >= row + 9
    assert left + size >= column + 9


def test_crop_is_no_larger_than_the_image():
    assert most_detailed_crop(np.zeros((20, 30, 3), np.uint8), 64)[2] == 20


def test_picture_is_saved_whole_and_grows_with_its_rows(tmp_path):
    pytest.importorskip("matplotlib")
    heights = []
    for rows in (1, 2):
        path = tmp_path / "comparison.png"
        save_comparison([comparison()] * rows, path)
        with Image.open(path) as image:
            image.load()
            heights.append(image.height)
    assert heights[1] > 1.7 * heights[0]
    assert list(tmp_path.iterdir()) == [path]


def test_every_part_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    pictures = []
    black = np.zeros((40, 60, 3), np.uint8)
    for changes in (
        {},
        {"bicubic": black},
        {"sr": black},
        {"hr": black},
        {"modulation": np.eye(15)},
        {"caption": "x"},
    ):
        save_comparison([comparison(**changes)], tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            pictures.append(image.tobytes())
    assert len(set(pictures)) == len(pictures)


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one comparison at least"):
        save_comparison([], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_pictures_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes .*\(8, 8, 3\).*must have one"):
        comparison(sr=np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("crop", [(-1, 0, 8), (0, 0, 0), (30, 0, 11), (0, 50, 11)])
def test_crops_that_reach_outside_are_refused(crop):
    with pytest.raises(ValueError, match=r"crop is .* must lie inside 40 x 60"):
        comparison(crop=crop)


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"./mrda\[demo\]"):
        save_comparison([comparison()], tmp_path / "a.png")
