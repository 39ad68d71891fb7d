import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.core.randomness import generator
from mrda.degradations.classic import degrade
from mrda.degradations.kernels import anisotropic_gaussian
from mrda.degradations.resample import bicubic
from mrda.evaluation.metrics import psnr_y
from mrda.evaluation.protocols import isotropic_conditions
from mrda.evaluation.samples import Condition
from mrda.paper.figures.details import BICUBIC, HEADER, Detail, compare_methods, save_details
from mrda.paper.figures.photos import check_photos, read_centre, smallest_side
from mrda.photo.images import ImageError, to_tensor

KERNEL = anisotropic_gaussian(3.0, 1.0, 0.5)
CONDITION = Condition("blur", KERNEL, 10.0)


def levels(height=62, width=71):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(levels()).save(path)
    return path


def nearest(sample):
    return sample.lr.repeat_interleave(2, 2).repeat_interleave(2, 3)


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_numbers_are_psnr_y_over_the_whole_photo(file):
    photo = read_centre(file, multiple=2)
    made = compare_methods({"nearest": nearest}, photo, CONDITION, 2, crop=(8, 4, 20))
    hr = to_tensor(levels())[..., :62, :70]
    noise = generator(0, "evaluation", "photo", "blur")
    lr = degrade(hr, KERNEL, 2, noise_level=10.0, generator=noise).lr
    nearest_sr = lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert made.psnr == {
        BICUBIC: float(psnr_y(bicubic(lr, 2), hr, 2)),
        "nearest": float(psnr_y(nearest_sr, hr, 2)),
    }
    np.testing.assert_array_equal(made.restored["nearest"], (255 * nearest_sr[0].permute(1, 2, 0)).round().byte())
    np.testing.assert_array_equal(made.hr, levels()[:62, :70])
    assert made.crop == (4, 8, 20)


def test_centre_is_used_of_large_photos(file):
    photo = read_centre(file, multiple=4, largest=51)
    assert photo.cropped
    assert photo.size == (62, 71)
    assert (photo.top, photo.left) == (7, 11)
    np.testing.assert_array_equal(photo.image, to_tensor(levels()[7:55, 11:59]))
    # The crop counts in the file's pixels, wherever the centre begins.
    made = compare_methods({}, photo, isotropic_conditions([1.0])[0], 4, crop=(15, 9, 20))
    assert made.crop == (2, 4, 20)
    assert made.cropped
    assert made.offset == (7, 11)
    with pytest.raises(ValueError, match="x=10, y=9, size=20 must lie inside photo, of which columns 11 to 58"):
        compare_methods({}, photo, isotropic_conditions([1.0])[0], 4, crop=(10, 9, 20))


def test_one_side_beyond_the_limit_leaves_the_other_as_it_is(file):
    photo = read_centre(file, multiple=2, largest=64)
    assert photo.cropped
    np.testing.assert_array_equal(photo.image, to_tensor(levels()[:, 3:67]))
    assert not read_centre(file, multiple=2, largest=71).cropped


@pytest.mark.parametrize("crop", [(0, 0, 0), (-1, 0, 8), (0, 55, 8), (63, 0, 8)])
def test_crops_outside_are_refused(file, crop):
    with pytest.raises(ValueError, match=r"crop x=.* must lie inside photo"):
        compare_methods({}, read_centre(file, multiple=2), CONDITION, 2, crop=crop)


def test_nan_is_refused(file):
    with pytest.raises(ValueError, match="SR of broken for photo has NaN"):
        compare_methods(
            {"broken": lambda sample: nearest(sample) * torch.nan}, read_centre(file, multiple=2), CONDITION, 2
        )


def test_csv_has_every_photo_and_method(file, tmp_path):
    pytest.importorskip("matplotlib")
    methods = {"a_$x": nearest, "mrda_s": lambda sample: nearest(sample) * 0.9}
    whole, centre = read_centre(file, multiple=2), read_centre(file, multiple=2, largest=40)
    details = [compare_methods(methods, photo, CONDITION, 2, crop=(30, 20, 16)) for photo in (whole, centre)]
    save_details(details, tmp_path / "f.png")
    rows = rows_of(tmp_path / "f.csv")
    assert tuple(rows[0]) == HEADER
    assert [row["method"] for row in rows] == ["bicubic", "a_$x", "mrda_s"] * 2
    for row, (detail, method) in zip(rows, [(d, m) for d in details for m in d.restored], strict=True):
        assert float(row["psnr_y"]) == detail.psnr[method]
        assert (row["photo"], row["condition"], row["noise"], row["scale"]) == ("photo", "blur", "10.0", "2")
        assert (row["crop_x"], row["crop_y"], row["crop_size"]) == ("30", "20", "16")
    assert [row["cropped"] for row in rows] == ["false"] * 3 + ["true"] * 3
    assert (rows[0]["width"], rows[0]["height"], rows[3]["width"], rows[3]["height"]) == ("70", "62", "40", "40")
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "f.png", "f.csv"}


def detail(**changes):
    hr, *others = np.random.default_rng(0).integers(0, 256, (4, 60, 70, 3), dtype=np.uint8)
    fields = {
        "name": "photo",
        "condition": CONDITION,
        "scale": 2,
        "hr": hr,
        "restored": dict(zip(("bicubic", "peer", "mrda_s"), others, strict=True)),
        "psnr": {"bicubic": 20.0, "peer": 21.0, "mrda_s": 22.0},
        "crop": (4, 8, 20),
    }
    return Detail(**{**fields, **changes})


def test_every_part_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    black = np.zeros((60, 70, 3), np.uint8)
    same = detail()
    variants = [
        {},
        {"name": "x"},
        {"hr": black},
        {"crop": (4, 9, 20)},
        {"condition": CONDITION._replace(kernel=None)},
        {"condition": CONDITION._replace(kernel=KERNEL.T)},
        {"psnr": {**same.psnr, "peer": 9.0}},
        *({"restored": {**same.restored, name: black}} for name in same.restored),
    ]
    pictures = []
    for changes in variants:
        save_details([detail(**changes)], tmp_path / "f.png")
        with Image.open(tmp_path / "f.png") as picture:
            pictures.append(picture.tobytes())
    assert len(set(pictures)) == len(pictures)


def test_many_methods_take_two_lines(tmp_path):
    pytest.importorskip("matplotlib")
    shapes = []
    for count in (4, 9):
        names = [f"m{index}" for index in range(count - 1)]
        many = detail(restored=dict.fromkeys(names, detail().hr), psnr=dict.fromkeys(names, 1.0))
        save_details([many], tmp_path / "f.png")
        with Image.open(tmp_path / "f.png") as picture:
            shapes.append(picture.size)
    # Five columns of half the side are narrower than four of the whole.
    assert shapes[1][0] < shapes[0][0]
    assert abs(shapes[1][1] - shapes[0][1]) < 0.1 * shapes[0][1]


def test_details_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one photo at least"):
        save_details([], tmp_path / "f.png")
    with pytest.raises(ValueError, match="same methods"):
        save_details([detail(), detail(restored={"bicubic": detail().hr})], tmp_path / "f.png")
    with pytest.raises(ValueError, match=r"SR of bicubic has shape \(8, 8, 3\)"):
        detail(restored={"bicubic": np.zeros((8, 8, 3), np.uint8)})
    with pytest.raises(ValueError, match="must lie inside 60 x 70"):
        detail(crop=(50, 0, 20))
    assert not list(tmp_path.iterdir())


def test_photos_are_looked_at_before_the_work(file, tmp_path):
    assert check_photos([file]) == []
    (remark,) = check_photos([file], largest=65)
    assert "71 x 62 pixels, of which the central 65 x 62 are used" in remark
    with pytest.raises(ImageError, match="must be at least 63 x 63"):
        check_photos([file], smallest=63)
    with pytest.raises(ImageError, match="no such file"):
        check_photos([tmp_path / "gone.png"])
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "photo.png"
    Image.fromarray(levels()).save(other)
    with pytest.raises(ValueError, match="both named photo"):
        check_photos([file, other])
    with pytest.raises(ImageError, match="must be at least 64 x 64"):
        read_centre(file, multiple=64)


@pytest.mark.parametrize(("condition", "scale"), [(CONDITION, 4), (CONDITION, 3), (Condition("none", None), 4)])
def test_smallest_side_is_the_smallest_that_works(tmp_path, condition, scale):
    smallest = smallest_side([condition], scale)
    path = tmp_path / "small.png"
    for side in (smallest, smallest - 1):
        Image.fromarray(levels(side, side)).save(path)
        photo = read_centre(path, multiple=scale)
        if side == smallest:
            compare_methods({}, photo, condition, scale)
        else:
            with pytest.raises(ValueError, match="must"):
                compare_methods({}, photo, condition, scale)
