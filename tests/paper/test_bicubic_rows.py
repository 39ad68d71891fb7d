import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.core import markdown
from mrda.evaluation.metrics import ssim_y
from mrda.evaluation.protocols import evaluate
from mrda.paper.studies import bicubic_rows
from mrda.photo.images import read_rgb, to_tensor

ROOT = Path(__file__).resolve().parents[2]
MARKED = "before\n{}\n{}{}\nafter\n"
BEGIN, END = markdown.markers(bicubic_rows.SECTION)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A file of 45 x 38 px, of which 44 x 36 are used, in a folder Set5."""
    rows, columns = np.mgrid[:38, :45]
    waves = [np.sin(rows * 0.5 + columns * 0.2), np.cos(columns * 0.7), np.sin(rows * columns * 0.01)]
    path = tmp_path_factory.mktemp("data") / "Set5" / "waves.png"
    path.parent.mkdir()
    Image.fromarray(np.uint8(127.5 + 127 * np.stack(waves, axis=-1))).save(path)
    return path


@pytest.fixture(scope="module")
def scores(photo):
    return bicubic_rows.measure(to_tensor(read_rgb(photo)))


@pytest.mark.parametrize(
    ("sampling", "options"),
    [
        ("antialiased", {}),
        ("antialiased, mirrored border", {"border": "mirror"}),
        ("every 4th pixel from 0", {"downsample": "sfold"}),
    ],
)
def test_rows_on_y_are_those_of_the_evaluation(sampling, options, photo, scores):
    records = list(evaluate({}, [photo], "gaussian8", 4, **options))
    assert len(records) == 8
    # The same operations on the same values: what is left is the order of the sums.
    expected = (sum(r.psnr_y for r in records) / 8, sum(r.ssim_y for r in records) / 8)
    assert scores[sampling, "Y"] == pytest.approx(expected, rel=1e-9)


def test_every_sampling_keeps_the_size_and_is_compared_in_every_way(scores):
    assert {sampling for sampling, _ in scores} == set(bicubic_rows.SAMPLINGS)
    assert len(scores) == 8 * len(bicubic_rows.SAMPLINGS)
    assert set(bicubic_rows.STEPS) < set(scores)


def test_pillow_is_the_antialiased_bicubic_in_8_bits(photo):
    image = to_tensor(read_rgb(photo))[..., :36, :44]
    sr, ours = (bicubic_rows.SAMPLINGS[name](image) for name in ("Pillow", "antialiased"))
    # Pillow rounds after each direction, ours after both: LR is up to 1 level off, times the sum of absolute weights of
    # both directions (at most 1.5625), and SR up to 1 level more; at the borders it weighs otherwise.
    inner = (..., slice(12, -12), slice(12, -12))
    assert (sr - ours)[inner].abs().max() <= 2.6 / 255
    assert sr.shape == ours.shape


def test_gray_scores_as_much_less_as_its_range_is_wider():
    hr = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(1)).expand(1, 3, 20, 20)
    hr = (255 * hr).round() / 255
    sr = 1 - hr
    found = bicubic_rows.compare(sr, hr)
    range_of_y = 65.738 + 129.057 + 25.064  # of 256
    less = 20 * math.log10(256 / range_of_y)
    for where in ("", ", whole picture"):
        for name in ("gray", "8-bit gray"):
            assert found[f"Y{where}"][0] - found[f"{name}{where}"][0] == pytest.approx(less, abs=1e-6)
    assert found["gray, whole picture"][0] != pytest.approx(found["gray"][0], abs=1e-3)


def test_sr_is_compared_in_8_bits():
    hr = torch.full((1, 3, 20, 20), 100 / 255)
    hr[..., ::2] = 40 / 255
    found = bicubic_rows.compare(hr + 0.4 / 255, hr)
    # Only float32 tells them apart: a level is 255 * 2**-25 off at most.
    assert min(psnr for psnr, _ in found.values()) > 140
    assert min(ssim for _, ssim in found.values()) == pytest.approx(1, abs=1e-6)


def test_rounding_makes_gray_an_8_bit_image():
    image = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(2))
    red, green, blue = 255 * image[0].double()
    expected = 0.299 * red + 0.587 * green + 0.114 * blue
    assert torch.equal(bicubic_rows.gray(image, rounded=True)[0, 0], expected.round())
    torch.testing.assert_close(bicubic_rows.gray(image, rounded=False)[0, 0], expected)


def test_ssim_where_the_window_fits_is_the_evaluation_s():
    draws = torch.Generator().manual_seed(3)
    sr, hr = ((255 * torch.rand(1, 3, 16, 18, generator=draws)).round() / 255 for _ in range(2))
    weights = torch.tensor((65.738, 129.057, 25.064), dtype=torch.float64) / 255
    planes = [torch.einsum("bchw,c->bhw", 255 * image.double(), weights)[:, None] + 16 for image in (sr, hr)]
    found = bicubic_rows.mean_inside(bicubic_rows.ssim_map(*planes), 5)
    # sr and hr are rounded once more by ssim_y, in float64: 255 times float32's spacing at 1, on planes of up to 255.
    assert found == pytest.approx(float(ssim_y(sr, hr, 0)), abs=1e-5)


def test_ssim_at_the_border_is_over_zeros():
    draws = torch.Generator().manual_seed(4)
    x, y = (255 * torch.rand(1, 1, 12, 13, generator=draws, dtype=torch.float64) for _ in range(2))
    offsets = range(-5, 6)
    sums = dict.fromkeys(("x", "y", "xx", "yy", "xy"), 0.0)
    total = sum(math.exp(-(i * i + j * j) / 4.5) for i in offsets for j in offsets)
    row, column = 1, 11
    for i in offsets:
        for j in offsets:
            if 0 <= row + i < 12 and 0 <= column + j < 13:
                weight = math.exp(-(i * i + j * j) / 4.5) / total
                a, b = (float(plane[0, 0, row + i, column + j]) for plane in (x, y))
                for name, value in {"x": a, "y": b, "xx": a * a, "yy": b * b, "xy": a * b}.items():
                    sums[name] += weight * value
    c1, c2 = 2.55**2, 7.65**2
    covariance = sums["xy"] - sums["x"] * sums["y"]
    variances = sums["xx"] - sums["x"] ** 2 + sums["yy"] - sums["y"] ** 2
    expected = (2 * sums["x"] * sums["y"] + c1) * (2 * covariance + c2)
    expected /= (sums["x"] ** 2 + sums["y"] ** 2 + c1) * (variances + c2)
    assert float(bicubic_rows.ssim_map(x, y).squeeze()[row, column]) == pytest.approx(expected, rel=1e-9)
    assert float(bicubic_rows.ssim_map(x, x).min()) == pytest.approx(1, rel=1e-9)


def test_the_command_writes_results_and_page_and_reads_them_again(photo, scores, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MRDA_DATA", str(photo.parent.parent))
    monkeypatch.setattr(bicubic_rows, "SETS", ("Set5",))
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text(MARKED.format(BEGIN, "old\n", END))
    bicubic_rows.main(["--json", str(results), "--update", str(page)])
    found = json.loads(results.read_text())
    assert (found["photos"], found["printed"]) == ({"Set5": 1}, {"Set5": [24.57, 0.7108]})
    by_row = {(row["sampling"], row["comparison"]): tuple(row["scores"]["Set5"]) for row in found["rows"]}
    assert by_row == scores
    tables = capsys.readouterr().out
    assert page.read_text() == MARKED.format(BEGIN, tables, END)
    psnr, ssim = scores["antialiased", "Y"]
    gaps = f"{abs(psnr - 24.57):.3f} / {abs(ssim - 0.7108):.4f}"
    assert f"| antialiased: Y | {psnr:.2f} / {ssim:.4f} | {gaps} |" in tables
    assert "| **printed in Table II** | 24.57 / 0.7108 |" in tables
    assert "the photos (Set5 1)" in tables

    monkeypatch.setattr(bicubic_rows, "study", None)
    bicubic_rows.main(["--results", str(results), "--update", str(page)])
    assert capsys.readouterr().out == tables


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "MRDA_DATA"),
        (("--data", "nowhere"), "nowhere"),
        (("--data", "."), "no bicubic row for a set of that name"),
        (("--results", "README.md"), "README.md"),
        (("--results", "other.json"), "other.json"),
        (("--update", "README.md"), "must hold one"),
        (("--json", "nowhere/x.json"), "nowhere"),
    ],
)
def test_wrong_usage_is_refused_before_any_work(arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MRDA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bicubic_rows, "measure", None)
    (tmp_path / "README.md").write_text("no markers")
    (tmp_path / "other.json").write_text("[]")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    with pytest.raises(SystemExit) as end:
        bicubic_rows.main(arguments)
    assert end.value.code == 2
    assert word in capsys.readouterr().err


def test_the_page_of_the_repository_is_what_its_results_give():
    results = bicubic_rows.load(ROOT / "benchmarks" / "results" / "bicubic_rows.json")
    page = (ROOT / "docs" / "bicubic_rows.md").read_text()
    assert markdown.insert(page, bicubic_rows.document(results), bicubic_rows.SECTION) == page
    assert len(results["rows"]) == len(bicubic_rows.SAMPLINGS) * 8 == 48  # as the page says


@pytest.mark.slow
def test_set5_comes_out_as_printed():
    root = os.environ.get("MRDA_DATA")
    if not root or not (Path(root) / "Set5").is_dir():
        pytest.skip("MRDA_DATA names no folder that has Set5")
    samplings = {"Pillow": bicubic_rows.SAMPLINGS["Pillow"]}
    found = [
        bicubic_rows.measure(to_tensor(read_rgb(source)), samplings)[bicubic_rows.STEPS[-1]]
        for source in bicubic_rows.sets([Path(root) / "Set5"])["Set5"]
    ]
    psnr, ssim = bicubic_rows.mean(found)
    # Half a unit of the last digit that is printed, and what rounding in other versions of Pillow may add to it.
    assert psnr == pytest.approx(24.57, abs=0.01)
    assert ssim == pytest.approx(0.7108, abs=0.0002)
