import json
import math

import pytest

from mrda.evaluation.protocols import Record
from mrda.evaluation.tables import markdown, summarise, write_json

RECORDS = [
    Record("a", "sigma=1", "bicubic", 20.0, 0.50),
    Record("a", "sigma=1", "mrda_s", 22.0, 0.60),
    Record("a", "sigma=2", "bicubic", 10.0, 0.30),
    Record("a", "sigma=2", "mrda_s", 15.0, 0.40),
    Record("b", "sigma=1", "bicubic", 30.0, 0.70),
    Record("b", "sigma=1", "mrda_s", 32.0, 0.80),
    Record("b", "sigma=2", "bicubic", 16.0, 0.50),
    Record("b", "sigma=2", "mrda_s", 17.0, 0.50),
]


def test_summary_is_the_mean_over_conditions_of_the_means_over_images():
    summary = summarise(RECORDS)
    assert list(summary) == ["bicubic", "mrda_s"]
    assert summary["bicubic"]["per_condition"] == {
        "sigma=1": {"psnr_y": 25.0, "ssim_y": pytest.approx(0.6)},
        "sigma=2": {"psnr_y": 13.0, "ssim_y": pytest.approx(0.4)},
    }
    assert summary["bicubic"]["psnr_y"] == 19.0
    assert summary["mrda_s"]["psnr_y"] == 21.5
    assert summary["mrda_s"]["ssim_y"] == pytest.approx(0.575)


def test_conditions_weigh_the_same_however_many_images_they_have():
    summary = summarise([*RECORDS[:4:2], RECORDS[4]])
    assert summary["bicubic"]["psnr_y"] == (25.0 + 10.0) / 2


def test_no_records_no_methods():
    assert summarise([]) == {}


def test_markdown_has_a_row_per_data_set_and_method():
    assert markdown({"Set5": summarise(RECORDS)}) == (
        "| Data set | Method | PSNR-Y (dB) | SSIM-Y |\n"
        "|---|---|---:|---:|\n"
        "| Set5 | bicubic | 19.00 | 0.5000 |\n"
        "| Set5 | mrda_s | 21.50 | 0.5750 |\n"
    )


def test_json_round_trip_with_infinity_as_null(tmp_path):
    path = tmp_path / "scores.json"
    write_json(
        path,
        {"datasets": {"Set5": summarise([Record("a", "c", "m", math.inf, 1.0)])}, "list": [1.5, math.nan]},
    )
    expected = {"psnr_y": None, "ssim_y": 1.0}
    assert json.loads(path.read_text()) == {
        "datasets": {"Set5": {"m": {**expected, "per_condition": {"c": expected}}}},
        "list": [1.5, None],
    }
    assert list(tmp_path.iterdir()) == [path]
