import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from PIL import Image

from mrda.config.load import load_config
from mrda.evaluation.methods import student_method
from mrda.evaluation.protocols import evaluate
from mrda.networks import MRDAStudent, load_network
from mrda.paper.ablation import Report, Row, _Measured, ablate, markdown, orderings
from mrda.paper.ablation_rows import Study
from mrda.training import RunRefusedError

HELD = {
    "t1": 20.0,
    "t2": 21.0,
    "t3": 22.0,
    "s1": 23.0,
    "s2": 23.5,
    "s3": 24.0,
    "s4": 23.0,
    "s5": 18.0,
    "s6": 19.0,
    "free_upscaler": 20.0,
    "fixed_upscaler": 21.0,
}


def rows(**changes: float) -> dict[str, list[float]]:
    return {name: [psnr] for name, psnr in {**HELD, **changes}.items()}


def verdicts(changed: dict[str, float], meta: tuple[float, float] = (20.0, 21.0), s3: float = 0.5) -> dict[str, str]:
    found = orderings(rows(**changed), {"bicubic": [[20.0, 20.5]], "meta": [meta]}, {"s3": [s3], "t1": [0.2]})
    return {ordering.statement: ordering.verdict for ordering in found}


def test_the_paper_s_orderings_are_recognised() -> None:
    assert set(verdicts({}).values()) == {"held"}


@pytest.mark.parametrize(("s3", "verdict"), [(24.0081, "undecided"), (23.9919, "undecided"), (24.02, "held")])
def test_a_difference_within_the_tolerance_decides_nothing(s3: float, verdict: str) -> None:
    assert verdicts({"s1": 24.0, "s3": s3})["S3 > S1"] == verdict


def test_seeds_that_disagree_decide_nothing() -> None:
    def verdict(*differences: float) -> tuple[str, float]:
        values = {name: [psnr] * len(differences) for name, psnr in HELD.items()}
        values["t2"] = [HELD["t1"] + difference for difference in differences]
        curves = {"bicubic": [[0.0, 0.0]] * len(differences), "meta": [[0.0, 1.0]] * len(differences)}
        (found,) = (each for each in orderings(values, curves, {}) if each.statement == "T2 > T1")
        return found.verdict, found.doubt

    # Standard deviation 0.1, of the mean of four 0.05: twice that is 0.1.
    spread = (0.1 / math.sqrt(4 / 3), -0.1 / math.sqrt(4 / 3)) * 2
    assert verdict(*(0.09 + each for each in spread)) == ("undecided", pytest.approx(0.1))
    assert verdict(*(0.11 + each for each in spread)) == ("held", pytest.approx(0.1))
    assert verdict(*(each - 0.11 for each in spread)) == ("not held", pytest.approx(0.1))


@pytest.mark.parametrize(
    ("changed", "meta", "s3", "statement"),
    [
        ({"t2": 19.9}, (20, 21), 0.5, "T2 > T1"),
        ({"s1": 24.1}, (20, 21), 0.5, "S3 > S1"),
        ({"s2": 24.1}, (20, 21), 0.5, "S3 > S2"),
        ({"s1": 18.9}, (20, 21), 0.5, "S1 > S6"),
        ({"s2": 18.9}, (20, 21), 0.5, "S2 > S6"),
        ({"s5": 19.1}, (20, 21), 0.5, "the worst other student > S5"),
        ({}, (20, 20.4), 0.5, "meta MLN gains more dB per step than bicubic MLN"),
        ({"free_upscaler": 21.1}, (20, 21), 0.5, "fixed upscaler > free upscaler (Table VI)"),
        ({}, (20, 21), 0.1, "silhouette of IDRs: S3 > T1"),
    ],
)
def test_an_ordering_that_fails_is_said_to(
    changed: dict[str, float], meta: tuple[float, float], s3: float, statement: str
) -> None:
    assert [name for name, verdict in verdicts(changed, meta, s3).items() if verdict != "held"] == [statement]
    assert verdicts(changed, meta, s3)[statement] == "not held"


def test_the_report_as_markdown() -> None:
    curves = {"bicubic": [[20.0, 20.5]], "meta": [[20.0, 21.0]]}
    found = orderings(rows(s5=23.9), curves, {})
    table_6 = Row("fixed_upscaler", 5, [20.5], 26.15, {"a": 21.0, "b": 20.0, "c": 20.5, "d": 20.5})
    table_5 = [Row(name, 5, values, 25.0, {}) for name, values in list(rows().items())[:9]]
    report = Report("toy", 5, ["a"], [1], [*table_5, table_6], curves, {}, found)
    lines = markdown(report).splitlines()
    assert lines[0].startswith("Configuration toy, 5 steps per stage, seed 1, PSNR-Y in dB on 1 photo (a). The")
    assert "| t2 | MRDA_T2 of Table V: the teacher as published | 5 | 21.000 | 25.00 |" in lines
    assert "| fixed_upscaler | 21.00 | 20.00 | 20.50 | 20.50 |" in lines
    assert "| paper | 26.48 | 26.47 | 26.25 | 25.41 |" in lines
    assert "| meta | 20.000 | 21.000 |" in lines
    assert "| the worst other student > S5 | **not held** | 19.0000 | 23.9000 | 0.0100 |" in lines


def test_the_spread_over_seeds_is_in_the_table() -> None:
    curves = {"bicubic": [[20.0, 20.5]] * 2, "meta": [[20.0, 21.0], [20.0, 22.0]]}
    report = Report("toy", 5, ["a"], [1, 2], [Row("t1", 5, [20.0, 20.2], 25.0, {})], curves, {}, [])
    lines = markdown(report).splitlines()
    assert "seeds 1, 2" in lines[0]
    assert any("| 20.100 +- 0.141 |" in line for line in lines)
    assert "| meta | 20.000 | 21.500 |" in lines


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, width: int = 40, height: int = 32) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        levels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path)
        return path

    return make


def refusal(run_dir: Path, photos: list[Path], *overrides: str) -> str:
    with pytest.raises(RunRefusedError) as caught:
        ablate("toy", 1, run_dir, photos, overrides=overrides, progress=False)
    assert not run_dir.exists()
    return str(caught.value)


# The border of the metrics, 2 px, on both sides and SSIM's window of 11 are 15 px; HR is cropped to multiples of 2.
@pytest.mark.parametrize(("width", "height"), [(40, 15), (15, 40)])
def test_a_photo_too_small_to_measure_is_refused_before_the_training(
    width: int, height: int, photo: Callable[..., Path], tmp_path: Path
) -> None:
    small = photo("small.png", width, height)
    message = refusal(tmp_path / "run", [photo("enough.png", 16, 16), small], f"data.sources=['{photo('a.png')}']")
    assert message == f"{small} is {width} x {height} px, but must be at least 16 px high and wide"


def test_a_photo_that_is_damaged_is_refused_before_the_training(photo: Callable[..., Path], tmp_path: Path) -> None:
    whole = photo("damaged.png").read_bytes()
    (tmp_path / "damaged.png").write_bytes(whole[: len(whole) // 2])
    assert "damaged.png" in refusal(tmp_path / "run", [tmp_path / "damaged.png"])


@pytest.mark.parametrize("source", ["training/a.png", "training", "training/../training/a.png"])
def test_a_photo_that_is_trained_on_is_refused(source: str, photo: Callable[..., Path], tmp_path: Path) -> None:
    measured = [photo("b.png"), photo("training/a.png")]
    message = refusal(tmp_path / "run", measured, f"data.sources=['{tmp_path / source}']")
    assert message == f"{measured[1]} is a training photo, so it can't be measured on"


def test_an_oracle_that_could_not_be_told_the_test_blurs_is_refused(photo: Callable[..., Path], tmp_path: Path) -> None:
    message = refusal(tmp_path / "run", [photo("a.png")], "degradation.kernel_size=15")
    assert message.startswith("degradation.kernel_size must be 21")
    assert message.endswith("it was 15")


def test_no_photo_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "run", []) == "data holds no photo to measure on"


def test_every_seed_is_trained_in_a_folder_of_its_own(
    photo: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measured(study: Study, photos: object) -> _Measured:
        seed = study.configs["s3"].seed
        seen.append((seed, study.run_dir, study.configs["t1"].seed))
        found = [Row(name, 1, [psnr + seed], 25.0, {"blur": psnr + seed}) for name, psnr in HELD.items()]
        return _Measured(found, {"bicubic": [0.0, 0.1], "meta": [0.0, float(seed)]}, {})

    monkeypatch.setattr("mrda.paper.ablation._measure_study", measured)
    run_dir, options = tmp_path / "run", [f"data.sources=['{photo('a.png')}']", "seed=4"]
    report = ablate("toy", 1, run_dir, [photo("bb.png")], overrides=options, seeds=2, progress=False)
    assert seen == [(4, run_dir, 4), (5, run_dir / "seed-5", 5)]
    assert report.seeds == [4, 5]
    assert report.rows[0] == Row("t1", 1, [24.0, 25.0], 25.0, {"blur": 24.5})
    assert report.curves["meta"] == [[0.0, 4.0], [0.0, 5.0]]


@pytest.mark.slow
def test_every_row_is_trained_and_measured_and_a_stopped_study_goes_on(
    photo: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    photos = [photo("a.png"), photo("bb.png"), photo("ccc.png")]
    options = [f"data.sources=['{photos[0]}']"]
    with caplog.at_level(logging.INFO, "mrda.paper.ablation"):
        report = ablate("toy", 2, tmp_path / "run", photos[1:], overrides=options, progress=False)
    assert [row.name for row in report.rows] == list(HELD)
    told = [record.getMessage() for record in caplog.records if record.name == "mrda.paper.ablation"]
    assert told[-1] == "ablation: measuring"
    assert report.config == f"toy, {options[0]}"
    stored = json.loads((tmp_path / "run" / "ablation.json").read_text())
    assert [row["psnr_y"] for row in stored["rows"]] == [row.psnr_y for row in report.rows]
    assert (tmp_path / "run" / "ablation.md").read_text() == markdown(report)

    by_name = {row.name: row for row in report.rows}
    assert (by_name["s5"].psnr_y_paper, by_name["t2"].psnr_y_paper) == (24.96, 26.15)
    # S3's RDAN moves in the teacher's two steps and in the student's, of which one is the encoder's.
    assert (by_name["s3"].steps, by_name["s6"].steps, by_name["t1"].steps) == (3, 3, 2)
    student = load_network(tmp_path / "run" / "s4" / "student" / "weights.safetensors")
    assert isinstance(student, MRDAStudent)
    records = evaluate({"ours": student_method(student)}, photos[1:], "gaussian8", 2, seed=1)
    assert by_name["s4"].psnr_y == [pytest.approx(fmean(r.psnr_y for r in records if r.method == "ours"), abs=1e-9)]
    recipes = {
        row: json.loads((tmp_path / "run" / row / "student" / "recipe.json").read_text()) for row in ("s1", "s2", "s4")
    }
    assert (recipes["s1"]["student.lambda_kl"], recipes["s2"]["student.lambda_abs"]) == (0, 0)
    assert recipes["s1"]["SHA-256 of the weights 'teacher'"] == recipes["s2"]["SHA-256 of the weights 'teacher'"]
    assert recipes["s4"]["networks.conv_type"] == "dasr_da"
    assert load_config(tmp_path / "run" / "free_upscaler" / "config.yaml").freeze_upscaler == "none"

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("weights.safetensors")}
    again = ablate("toy", 2, tmp_path / "run", photos[1:], overrides=options, progress=False)
    assert again == report
    assert {path: path.stat().st_mtime_ns for path in before} == before
