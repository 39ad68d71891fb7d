import numpy as np
import pytest
import torch
from PIL import Image

from mrda.degradations.resample import bicubic
from mrda.evaluation.niqe import PristineModel, niqe
from mrda.evaluation.unpaired import check_pictures, evaluate_unpaired, read_unpaired
from mrda.photo.images import ImageError, read_rgb, to_tensor

MODEL = PristineModel(torch.zeros(36, dtype=torch.float64), torch.eye(36, dtype=torch.float64))


@pytest.fixture
def photo(tmp_path):
    """Makes photos of random pixels in the folder LR."""
    generator = np.random.default_rng(0)

    def photo(name, height=96, width=100, mode="RGB"):
        path = tmp_path / "LR" / name
        path.parent.mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
        return path

    return photo


def dark(sample):
    """A method that looks at LR alone."""
    return bicubic(sample.lr, 2) / 2


def test_pictures_are_saved_and_measured(photo, tmp_path):
    photos = [photo("b.png"), photo("a.bmp")]
    records = list(evaluate_unpaired({"dark": dark}, photos, tmp_path / "out" / "deep", 2, model=MODEL))
    assert [record[:2] for record in records] == [(name, method) for name in "ba" for method in ("bicubic", "dark")]
    for record, factor in zip(records, (1, 0.5, 1, 0.5), strict=True):
        lr = to_tensor(read_rgb(photos[0] if record.image == "b" else photos[1]))
        sr = to_tensor(read_rgb(tmp_path / "out" / "deep" / record.method / f"{record.image}.png"))
        assert sr.shape == (1, 3, 192, 200)
        # Half a level, and a tenth for float32 in between.
        assert (255 * (sr - factor * bicubic(lr, 2).clamp(0, 1 / factor))).abs().max() <= 0.6
        assert record.niqe == float(niqe(sr, MODEL))  # of the very picture


def test_pictures_that_niqe_can_not_judge_are_there_all_the_same(photo, tmp_path):
    with pytest.raises(ValueError, match="NIQE"):
        list(evaluate_unpaired({"dark": dark}, [photo("a.png", 9, 9)], tmp_path / "out", 2, model=MODEL))
    assert {path.parent.name for path in (tmp_path / "out").rglob("a.png")} == {"bicubic", "dark"}


def test_without_a_model_nothing_is_measured_and_any_size_will_do(photo, tmp_path):
    (record,) = evaluate_unpaired({}, [photo("a.png", 3, 1)], tmp_path / "out")
    assert record == ("a", "bicubic", None)
    assert Image.open(tmp_path / "out" / "bicubic" / "a.png").size == (4, 12)


def test_the_border_of_bicubic_can_be_chosen(photo, tmp_path):
    path = photo("a.png", 8, 8)
    for border in ("clamp", "mirror"):
        list(evaluate_unpaired({}, [path], tmp_path / border, 2, border=border))
    clamp, mirror = (read_rgb(tmp_path / border / "bicubic" / "a.png") for border in ("clamp", "mirror"))
    assert not np.array_equal(clamp, mirror)
    assert np.array_equal(read_unpaired(path, 2, "mirror").lr_up, to_tensor(mirror))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_gray_and_transparent_photos_become_rgb(photo, tmp_path, mode):
    list(evaluate_unpaired({}, [photo("a.png", 8, 8, mode)], tmp_path / "out", 2))
    assert Image.open(tmp_path / "out" / "bicubic" / "a.png").mode == "RGB"


def test_a_sample_has_no_hr(photo):
    path = photo("a.png", 8, 9)
    sample = read_unpaired(path, 2)
    assert torch.equal(sample.lr, to_tensor(read_rgb(path)))
    assert sample.hr.shape == (1, 3, 0, 0)
    assert sample.kernel is None


def test_what_is_no_sr_is_refused(photo, tmp_path):
    path = photo("a.png", 8, 8)
    for method, words in (
        (lambda sample: sample.lr, r"the SR of up has shape \(1, 3, 8, 8\), but must have \(1, 3, 16, 16\)"),
        (lambda sample: sample.lr_up / 0, "the SR of up has NaN or infinite values"),
    ):
        with pytest.raises(ValueError, match=words):
            list(evaluate_unpaired({"up": method}, [path], tmp_path / "out", 2))
        assert not (tmp_path / "out" / "up" / "a.png").exists()
    with pytest.raises(ValueError, match="NIQE requires at least 96x96"):
        list(evaluate_unpaired({}, [path], tmp_path / "out", 2, model=MODEL))
    assert (tmp_path / "out" / "bicubic" / "a.png").exists()
    path.write_text("milk")
    with pytest.raises(ImageError, match="not an image"):
        list(evaluate_unpaired({}, [path], tmp_path / "out", 2))


def test_no_photo_is_lost(photo, tmp_path):
    photos = [photo("a.png"), photo("a.bmp")]
    check_pictures(photos, [], tmp_path / "out")
    records = list(evaluate_unpaired({}, photos, tmp_path / "both", 2))
    assert [record.image for record in records] == ["a.png", "a.bmp"]
    assert sorted(path.name for path in (tmp_path / "both/bicubic").iterdir()) == ["a.bmp.png", "a.png.png"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ours").symlink_to(tmp_path / "LR")
    check_pictures(photos[:1], ["mine"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"ours.a\.png is one of the photos to upscale"):
        check_pictures(photos[:1], ["mine", "ours"], tmp_path / "out")
