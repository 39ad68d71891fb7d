import json
import logging
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
from mrda.paper.ablation import Report, Row, ablate, markdown, orderings
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


def rows(**changes: float) -> dict[str, Row]:
    return {name: Row(name, 5, psnr, 25.0, {}) for name, psnr in {**HELD, **changes}.items()}


def verdicts(changed: dict[str, float], meta: tuple[float, float] = (20.0, 21.0), s3: float = 0.5) -> dict[str, bool]:
    found = orderings(rows(**changed), {"bicubic": [20.0, 20.5], "meta": meta}, {"s3": s3, "t1": 0.2})
    return {ordering.statement: ordering.held for ordering in found}


def test_the_paper_s_orderings_are_recognised() -> None:
    assert set(verdicts({}).values()) == {True}


@pytest.mark.parametrize(
    ("changed", "meta", "s3", "statement"),
    [
        ({"t2": 19.9}, (20, 21), 0.5, "T2 > T1"),
        ({"s1": 24.0}, (20, 21), 0.5, "S3 > S1"),
        ({"s2": 24.1}, (20, 21), 0.5, "S3 > S2"),
        ({"s1": 19.0}, (20, 21), 0.5, "S1 > S6"),
        ({"s2": 18.9}, (20, 21), 0.5, "S2 > S6"),
        ({"s5": 19.1}, (20, 21), 0.5, "S5 is the worst student"),
        ({}, (20, 20.4), 0.5, "meta MLN gains more dB per step than bicubic MLN"),
        ({"free_upscaler": 21.0}, (20, 21), 0.5, "fixed upscaler > free upscaler (Table VI)"),
        ({}, (20, 21), 0.2, "silhouette of IDRs: S3 > T1"),
    ],
)
def test_an_ordering_that_fails_is_said_to(
    changed: dict[str, float], meta: tuple[float, float], s3: float, statement: str
) -> None:
    assert [name for name, held in verdicts(changed, meta, s3).items() if not held] == [statement]


def test_the_report_as_markdown() -> None:
    found = orderings(rows(s5=23.9), {"bicubic": [20.0, 20.5], "meta": [20.0, 21.0]}, {})
    table_6 = Row("fixed_upscaler", 5, 20.5, 26.15, {"a": 21.0, "b": 20.0, "c": 20.5, "d": 20.5})
    curves = {"bicubic": [20.0, 20.5], "meta": [20.0, 21.0]}
    report = Report("toy", 5, ["a"], [*list(rows().values())[:9], table_6], curves, {}, found)
    lines = markdown(report).splitlines()
    assert lines[0].startswith("Configuration toy, 5 steps per stage, PSNR-Y in dB on 1 photo (a).")
    assert "| t1 | 5 | 20.000 | 25.00 |" in lines
    assert "| fixed_upscaler | 21.00 | 20.00 | 20.50 | 20.50 |" in lines
    assert "| paper | 26.48 | 26.47 | 26.25 | 25.41 |" in lines
    assert "| meta | 20.000 | 21.000 |" in lines
    assert "| S5 is the worst student | **not held** | 23.9000 | 19.0000 |" in lines


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
    assert by_name["s4"].psnr_y == pytest.approx(fmean(r.psnr_y for r in records if r.method == "ours"), abs=1e-9)
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
