import csv
import json
import math

import pytest

from mrda.evaluation.paired import RealRecord
from mrda.evaluation.paper import paper, paper_rows
from mrda.evaluation.protocols import Record, conditions
from mrda.evaluation.tables import summarise, write_json, write_scores
from mrda.evaluation.tables_markdown import markdown

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
MEASURED = (
    "| Data set | Method | PSNR-Y (dB) | SSIM-Y |\n"
    "|---|---|---:|---:|\n"
    "| Set5 | bicubic | 19.00 | 0.5000 |\n"
    "| Set5 | mrda_s | 21.50 | 0.5750 |\n"
)


def nine(levels):
    """PSNR 20 + kernel + level/100, SSIM kernel/10 + level/1000, of one image and method."""
    return [
        Record("a", f"k{k} noise={level}", "bicubic", 20 + k + level / 100, k / 10 + level / 1000)
        for level in levels
        for k in range(1, 10)
    ]


def rows_of(table, start):
    return [line for line in table.splitlines() if line.startswith(start)]


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
    assert markdown({"Set5": summarise(RECORDS)}) == MEASURED


def test_the_papers_rows_follow_those_measured():
    table = markdown({"Set5": summarise(RECORDS), "own": summarise(RECORDS[:1])}, "gaussian8", 4)
    assert table.startswith(MEASURED)
    assert rows_of(table, "| Set5 |")[2:] == [
        f"| Set5 | {row.method} (paper) | {row.psnr_y:.2f} | {row.ssim_y:.4f} |"
        for row in paper_rows("Set5", "gaussian8", 4)
    ] + [
        "| Set5 | DANv2 (KDSR's paper) | 32.00 | 0.8885 |",
        "| Set5 | DCLS (KDSR's paper) | 32.12 | 0.8890 |",
        "| Set5 | KDSR_S-M (KDSR's paper) | 32.02 | 0.8892 |",
        "| Set5 | KDSR_S-L (KDSR's paper) | 32.11 | 0.8933 |",
    ]
    assert "| Set5 | MRDA_S (paper) | 31.98 | 0.8872 |" in table
    assert rows_of(table, "| own |") == ["| own | bicubic | 20.00 | 0.5000 |"]
    assert "(paper)" not in markdown({"Set5": summarise(RECORDS)}, "gaussian8", 2)
    assert "(paper)" not in markdown({"Set5": summarise(RECORDS)}, "bicubic", 4)


def test_nine_kernels_have_means_per_noise_level_and_a_table_of_kernels():
    table = markdown({"own": summarise(nine([0, 10]))}, "mrda9", 4)
    by_noise, by_kernel = table.split("\nPSNR-Y (dB) of each kernel:\n")
    # The mean kernel number is 5.
    assert rows_of(by_noise, "| own |") == [
        "| own | bicubic | 0 | 25.00 | 0.5000 |",
        "| own | bicubic | 10 | 25.10 | 0.5100 |",
        "| own | bicubic | all | 25.05 | 0.5050 |",
    ]
    assert rows_of(by_kernel, "| Data set |") == [
        "| Data set | Method | Noise | k1 | k2 | k3 | k4 | k5 | k6 | k7 | k8 | k9 |"
    ]
    assert rows_of(by_kernel, "| own |") == [
        f"| own | bicubic | {level} | {' | '.join(f'{20 + k + level / 100:.2f}' for k in range(1, 10))} |"
        for level in (0, 10)
    ]
    assert "inferred" not in table


def test_table_iii_stands_beside_its_noise_level():
    table = markdown({"Set14": summarise(nine([10]))}, "mrda9", 4)
    by_noise, by_kernel = table.split("\nPSNR-Y (dB) of each kernel:\n")
    found = rows_of(by_noise, "| Set14 |")
    assert found[0] == "| Set14 | bicubic | 10 | 25.10 | 0.5100 |"
    assert found[1] == "| Set14 | DnCNN+RCAN (paper) | 10 | 23.86 | - |"
    assert len(found) == 8
    assert rows_of(by_kernel, "| Set14 | MRDA_S (paper)") == [
        "| Set14 | MRDA_S (paper) | 10 | 25.66 | 25.81 | 25.90 | 25.92 | 25.86 | 25.80 | 25.68 | 25.41 | 24.56 |"
    ]
    assert "k1 to k9 are inferred from the paper's thumbnails" in table


def test_the_levels_of_dasr9_are_its_own():
    table = markdown({"Set14": summarise(nine([0, 5, 10]))}, "dasr9", 4)
    by_noise, by_kernel = table.split("\nPSNR-Y (dB) of each kernel:\n")
    assert [row.split("|")[3].strip() for row in rows_of(by_noise, "| Set14 | bicubic")] == ["0", "5", "10", "all"]
    assert [row.split("|")[3].strip() for row in rows_of(by_kernel, "| Set14 | bicubic")] == ["0", "5", "10"]
    assert rows_of(by_kernel, "| Set14 | CDFormer (CDFormer's paper) | 10 ") == [
        "| Set14 | CDFormer (CDFormer's paper) | 10 "
        "| 27.00 | 26.92 | 25.98 | 25.80 | 25.80 | 25.70 | 25.55 | 25.22 | 24.83 |"
    ]
    assert "(paper)" not in table
    assert "inferred" not in table


def test_dasr_iso_has_a_column_for_each_width():
    widths = [f"sigma={sigma:g}" for sigma in (0, 1.2, 2.4, 3.6)]
    records = [Record("a", width, "bicubic", 20 + place, 0.5) for place, width in enumerate(widths)]
    table = markdown({"Set5": summarise(records)}, "dasr-iso", 4)
    assert rows_of(table, "| Data set |") == ["| Data set | Method | sigma=0 | sigma=1.2 | sigma=2.4 | sigma=3.6 |"]
    assert rows_of(table, "| Set5 |")[0] == "| Set5 | bicubic | 20.00 | 21.00 | 22.00 | 23.00 |"
    assert "| Set5 | DASR (DASR's paper) | 31.99 | 31.92 | 31.75 | 30.59 |" in table


def test_the_wide_protocol_has_its_own_blurs():
    records = [Record("a", condition.name, "bicubic", 20.0, 0.5) for condition in conditions("wide", 4)]
    by_noise, by_blur = markdown({"Set5": summarise(records)}, "wide", 4).split("\nPSNR-Y (dB) of each kernel:\n")
    assert len(rows_of(by_noise, "| Set5 | bicubic | 12.5 | 20.00 |")) == 1
    assert "| Noise | sigma=0.2 | sigma=1.15 | sigma=2.1 | sigma=3.05 | sigma=4 |" in by_blur


def test_what_another_idr_costs_is_said():
    names = {"mrda_s": 30.0, "mrda_s, IDR mean": 29.5, "mrda_s, IDR other": 28.0}
    records = [Record("a", "bicubic", name, psnr, 0.5) for name, psnr in names.items()]
    table = markdown({"own": summarise(records)}, "bicubic", 4)
    assert "own: with the mean IDR in place of each photo's own, mrda_s loses 0.50 dB.\n" in table
    assert "own: with the other IDR in place of each photo's own, mrda_s loses 2.00 dB.\n" in table


def test_the_kernels_table_is_whole_or_not_there():
    datasets = {"own": summarise(nine([0]))}
    whole = markdown(datasets, "mrda9", 4)
    widest = max(map(len, whole.splitlines()))
    assert markdown(datasets, "mrda9", 4, width=widest) == whole
    short = markdown(datasets, "mrda9", 4, width=widest - 1)
    assert short.startswith(whole[: whole.index("PSNR-Y (dB) of each kernel")])
    assert "k1" not in short
    assert "--markdown FILE" in short
    assert markdown({"Set5": summarise(RECORDS)}, width=10) == MEASURED


def test_a_part_of_a_data_set_is_called_one():
    summary = summarise(RECORDS)
    photos = {"Set5": (2, 5), "own": (3, 3), "mine": (0, 4)}
    table = markdown({"Set5": summary, "own": summary}, "gaussian8", 4, photos=photos)
    assert table.endswith(
        "\n\nSet5: means over 2 of 5 photos, the paper's over all.\n\nmine: means over 0 of 4 photos.\n"
    )
    assert "own: means" not in table


REAL = [
    RealRecord("a", "real", "bicubic", 20.0, 0.5, 0.4),
    RealRecord("b", "real", "bicubic", 22.0, 0.7, 0.6),
    RealRecord("a", "real", "mrda_s", 25.0, 0.8, 0.25),
]


def test_lpips_is_averaged_where_it_was_measured():
    summary = summarise(REAL)
    assert summary["bicubic"] == {
        "psnr_y": 21.0,
        "ssim_y": pytest.approx(0.6),
        "lpips": pytest.approx(0.5),
        "per_condition": {"real": {"psnr_y": 21.0, "ssim_y": pytest.approx(0.6), "lpips": pytest.approx(0.5)}},
    }
    assert "lpips" not in summarise(RECORDS)["bicubic"]


def test_table_iv_has_lpips_beside_ours():
    measured, own = summarise(REAL), summarise(REAL[2:])
    table = markdown({"RealSRset": measured, "own": own}, "real", 4)
    assert rows_of(table, "| Data set |") == ["| Data set | Method | PSNR-Y (dB) | SSIM-Y | LPIPS |"]
    assert rows_of(table, "| RealSRset |") == [
        "| RealSRset | bicubic | 21.00 | 0.6000 | 0.5000 |",
        "| RealSRset | mrda_s | 25.00 | 0.8000 | 0.2500 |",
        *(
            f"| RealSRset | {row.method} (paper) | {score.psnr_y:.2f} | {score.ssim_y:.4f} | {score.lpips:.4f} |"
            for row in paper().table_iv
            for score in [row.scores["RealSRSet"]]
        ),
    ]
    assert "| RealSRset | MRDA_S-GAN (paper) | 27.16 | 0.8010 | 0.3578 |" in table
    assert rows_of(table, "| own |") == ["| own | mrda_s | 25.00 | 0.8000 | 0.2500 |"]
    without = markdown({"RealSRset": summarise([Record(*record[:5]) for record in REAL])}, "real", 4)
    assert "LPIPS" not in without
    assert "| RealSRset | MRDA_S-GAN (paper) | 27.16 | 0.8010 |\n" in without
    other = markdown({"Set14": measured}, "gaussian8", 4)
    assert "| Set14 | MRDA_S (paper) | 28.42 | 0.7671 | - |" in other


def test_csv_has_a_column_for_lpips_where_it_was_measured(tmp_path):
    path = tmp_path / "scores.csv"
    write_scores(path, {"own": REAL})
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["dataset", "image", "condition", "method", "psnr_y", "ssim_y", "lpips"]
    assert [float(row[-1]) for row in rows] == [0.4, 0.6, 0.25]
    write_scores(path, {})
    assert path.read_text() == "dataset,image,condition,method,psnr_y,ssim_y\n"


def test_a_bar_in_a_name_is_no_column():
    assert "| a\\|b | bicubic |" in markdown({"a|b": summarise(RECORDS)})


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


def test_csv_round_trip_to_the_last_digit(tmp_path):
    path = tmp_path / "scores.csv"
    odd = Record('a, "b"', "c", "m", math.inf, 1 / 3)
    write_scores(path, {"Set5": RECORDS, "own": [odd]})
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["dataset", "image", "condition", "method", "psnr_y", "ssim_y"]
    assert [(name, Record(*texts, float(psnr), float(ssim))) for name, *texts, psnr, ssim in rows] == [
        *(("Set5", record) for record in RECORDS),
        ("own", odd),
    ]
    assert list(tmp_path.iterdir()) == [path]
