import numpy as np
import pytest
import torch
from PIL import Image

from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.evaluation.metrics import psnr_y, ssim_y
from mrda.evaluation.paired import evaluate_pairs, find_pairs, read_pair
from mrda.photo.images import ImageError, read_rgb, to_tensor


@pytest.fixture
def scene(tmp_path):
    """Makes files of random pixels: scene("LR/a.png", 12, 10)."""
    generator = np.random.default_rng(0)

    def scene(name, height=12, width=10):
        path = tmp_path / "Set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        return path

    return scene


@pytest.mark.parametrize(
    ("lr", "hr", "name"),
    [
        ("LR/a.png", "HR/a.png", "a"),
        ("lr/a.png", "hr/a.png", "a"),
        ("LR/a.bmp", "HR/a.png", "a"),
        ("LR/Canon_001_LR4.png", "HR/Canon_001_HR.png", "Canon_001"),
        ("LR/0801x4.png", "HR/0801.png", "0801"),
        ("LR/0801_x4.png", "HR/0801.png", "0801"),
        ("LR/a_LRx4.png", "HR/a_HR.png", "a"),
        ("LR/a_LR.png", "HR/a_HR.png", "a"),
        ("LR/a_lr.png", "HR/a_hr.png", "a"),
        ("LR/maxx4.png", "HR/maxx4.png", "maxx4"),
        ("LR/im_1.png", "HR/img_1_gt.png", "1"),
        ("lr_x4/im_1.png", "gt/img_1_gt.png", "1"),
        ("LRx4/img_1.png", "GT/img_1_GT.png", "img_1"),
        ("LR/img_1_LR.png", "HR/img_1_HR.png", "img_1"),
        ("LR/1.png", "HR/image_1.png", "1"),
    ],
)
def test_names_that_belong_together(scene, tmp_path, lr, hr, name):
    lr, hr = scene(lr), scene(hr)
    assert find_pairs(tmp_path / "Set", 4) == [(name, lr, hr)]


def test_folders_of_other_scales_may_lie_beside(scene, tmp_path):
    lr, hr = scene("lr_x4/im_1.png"), scene("gt/img_1_gt.png")
    scene("lr_x2/im_1.png")
    assert find_pairs(tmp_path / "Set", 4) == [("1", lr, hr)]


def test_pairs_are_sorted_by_name_and_equal_names_go_first(scene, tmp_path):
    for file in ("LR/b.png", "LR/ax4.png", "LR/cx4.png", "HR/a.png", "HR/b.png", "HR/cx4.png"):
        scene(file)
    assert [(pair.name, pair.lr.name, pair.hr.name) for pair in find_pairs(tmp_path / "Set", 4)] == [
        ("a", "ax4.png", "a.png"),
        ("b", "b.png", "b.png"),
        ("cx4", "cx4.png", "cx4.png"),
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["HR/a.png"], "must hold the folder LR"),
        (["LR/a.png"], "must hold the folder HR"),
        (["LR/a.png", "lr/a.png", "HR/a.png"], "must hold only one of LR or lr"),
        (["LR/a.png", "LR/b.png", "HR/a.png"], r"LR.b\.png has no counterpart named b in the HR folder"),
        (["LR/a.png", "HR/b.png", "HR/a.png"], r"HR.b\.png has no counterpart named b in the LR folder"),
        (["LR/ax2.png", "HR/a.png"], r"LR.ax2\.png has no counterpart named ax2"),
        (
            ["LR/a.png", "HR/b.png"],
            r"a in the HR folder, where _HR or _GT may follow the name, and im_, img_ or image_",
        ),
        (["LR/im_1.png", "LR/img_1.png", "HR/1.png"], r"are both named 1, so their partner is not known"),
        (["lr_x2/a.png", "gt/a.png"], "must hold the folder LR or lr"),
        (["LR/ax4.png", "LR/a_x4.png", "HR/a.png"], r"are both named a, so their partner is not known"),
        (["LR/a.png", "LR/a.bmp", "HR/a.png"], r"a\.bmp and a\.png have the same name"),
        (["LR/a.png", "LR/ax4.png", "HR/a.png", "HR/a_HR.png"], r"ax4\.png and .*a\.png are both the LR photo of a"),
    ],
)
def test_what_has_no_partner_is_named(scene, tmp_path, files, words):
    for file in files:
        scene(file)
    with pytest.raises(ValueError, match=words):
        find_pairs(tmp_path / "Set", 4)


def test_empty_folders_and_wrong_scales_are_refused(scene, tmp_path):
    scene("LR/a.png")
    (tmp_path / "Set" / "HR").mkdir()
    with pytest.raises(ImageError, match="holds no image"):
        find_pairs(tmp_path / "Set", 4)
    with pytest.raises(ValueError, match="scale is 5"):
        find_pairs(tmp_path / "Set", 5)


@pytest.mark.parametrize("border", ["clamp", "mirror"])
def test_a_sample_is_what_the_files_hold(scene, tmp_path, border):
    lr_path, hr_path = scene("LR/a.png", 12, 10), scene("HR/a.png", 24, 20)
    (pair,) = find_pairs(tmp_path / "Set", 2)
    sample = read_pair(pair, 2, border)
    lr = to_tensor(read_rgb(lr_path))
    assert torch.equal(sample.lr, lr)
    assert torch.equal(sample.hr, to_tensor(read_rgb(hr_path)))
    assert torch.equal(sample.lr_up, quantize(bicubic(lr, 2, border)))
    assert sample.kernel is None


def test_sizes_must_fit(scene, tmp_path):
    scene("LR/a.png", 12, 10)
    scene("HR/a.png", 24, 21)
    (pair,) = find_pairs(tmp_path / "Set", 2)
    with pytest.raises(ValueError, match=r"HR.a\.png is 21x24 pixels, but must be 20x24, 2 times .*LR.a\.png"):
        read_pair(pair, 2)


def test_scores_are_matlabs_without_four_pixels_along_the_border(scene, tmp_path):
    scene("LR/a.png", 12, 10)
    scene("HR/a.png", 24, 20)
    pairs = find_pairs(tmp_path / "Set", 2)
    sample = read_pair(pairs[0], 2)
    records = list(evaluate_pairs({"up": lambda sample: sample.lr_up}, pairs, 2))
    for record, method, sr in zip(records, ("bicubic", "up"), (bicubic(sample.lr, 2), sample.lr_up), strict=True):
        assert record[:3] == ("a", "real", method)
        assert record.psnr_y == float(psnr_y(sr, sample.hr, 4, "matlab"))
        assert record.ssim_y == float(ssim_y(sr, sample.hr, 4, "matlab"))
        assert record.psnr_y != float(psnr_y(sr, sample.hr, 2, "matlab"))
    (other, _) = evaluate_pairs({"up": lambda sample: sample.lr_up}, pairs, 2, variant="released")
    assert other.ssim_y == float(ssim_y(bicubic(sample.lr, 2), sample.hr, 4, "released"))
    (mirrored,) = evaluate_pairs({}, pairs, 2, border="mirror")
    assert mirrored.psnr_y == float(psnr_y(bicubic(sample.lr, 2, "mirror"), sample.hr, 4, "matlab"))


def test_lpips_is_measured_on_whole_pictures_in_eight_bits(scene, tmp_path):
    scene("LR/a.png", 12, 10)
    scene("HR/a.png", 24, 20)
    pairs, seen = find_pairs(tmp_path / "Set", 2), []

    def lpips(sr, hr):
        seen.append((sr, hr))
        return (sr - hr).abs().mean(dim=(1, 2, 3))

    sample = read_pair(pairs[0], 2)
    methods = {"loud": lambda sample: 2 * sample.lr_up}
    records = list(evaluate_pairs(methods, pairs, 2, lpips=lpips))
    plain = list(evaluate_pairs(methods, pairs, 2))
    assert [record[:5] for record in records] == plain
    for record, (sr, hr), unrounded in zip(records, seen, (bicubic(sample.lr, 2), 2 * sample.lr_up), strict=True):
        assert torch.equal(sr, quantize(unrounded))
        assert torch.equal(hr, sample.hr)
        assert record.lpips == float((sr - hr).abs().mean())
