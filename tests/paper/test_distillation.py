import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrda.paper.distillation import BLUR_PROBES, FEATURE_PROBES, IDR_PROBES, ROWS, Study, ablate, draw, markdown
from mrda.training import RunRefusedError

DOCS = Path(__file__).parents[2] / "docs" / "weights"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study("toy", tmp_path / "run", {"Mine": []}, seeds=(1, 2), overrides=["student.rdan_lr_factor=0.3"])


def result(**changes: object) -> dict[str, object]:
    measured = {
        "optimizer": "muon",
        "steps": 4,
        "psnr_y": {"Mine": 20.0},
        "silhouette": 0.5,
        "component": [[0.8, -1.0], [3.2, 1.0]],
    }
    return measured | changes


def results() -> dict[str, object]:
    rows = {row: [result(), result(psnr_y={"Mine": 21.0})] for row in ROWS}
    costs = ({"Mine": 0.25}, {"Mine": 0.75})
    rows["adam_s3"] = [one | {"optimizer": "adam"} for one in rows["adam_s3"]]
    rows["s3"] = [one | {"cost_of_the_mean_idr": cost, "r2": 0.4} for one, cost in zip(rows["s3"], costs, strict=True)]
    return {
        "photos": {"Mine": 1},
        "rows": rows,
        "blur_probes": {name: [[50, 0.1], [100, 0.2]] for name in BLUR_PROBES},
        "idr_probes": {"t2_self": [[0.25, 0.75], [0.5, 0.9]]},
    }


def test_rows_change_the_base_and_s6_takes_the_steps_of_teacher_and_student(study: Study) -> None:
    configs = {row: study.config(row, 2) for row in ROWS}
    assert {config.seed for config in configs.values()} == {2}
    assert configs["s6"].teacher.steps == configs["t2"].teacher.steps + configs["s3"].student.steps
    assert configs["s3"].student.rdan_lr_factor == 0.3
    assert configs["no_distillation"].student.lambda_abs == configs["no_distillation"].student.lambda_kl == 0
    assert {row for row, config in configs.items() if config.teacher.den_input == "lr"} == {
        *("t1", "s6", "s6_norm", "adam_t1", "adam_s6"),
    }
    assert {row for row, config in configs.items() if config.teacher.den_input == "kernel"} == {
        *("t3", "t3_early", "s3_told", "adam_t3"),
    }
    assert {row for row, config in configs.items() if config.teacher.den_input == "kernel" and ROWS[row].teacher} == {
        "s3_told"
    }
    assert configs["t3"].teacher.steps == configs["s6"].teacher.steps


def test_rows_say_what_they_need_whatever_the_base(tmp_path: Path) -> None:
    overrides = ["student.distil_share=0.2", "teacher.den_input=lr_hr", "adaptation.on=self"]
    study = Study("demo", tmp_path / "run", {"Mine": []}, overrides=overrides)
    for row in ("t2", "s3", "s3_early"):
        config = study.config(row, 1)
        assert (config.teacher.den_input, config.adaptation.on) == ("features", "other")
        assert (config.student.lambda_kl, config.student.lambda_abs, config.student.distil_share) == (0, 1, None)
    with pytest.raises(ValueError, match=r"kernel_size must be 21, .* for the row t3, it was 15"):
        Study("demo", tmp_path / "run", {"Mine": []}, overrides=["degradation.kernel_size=15"])


def test_rows_of_adam_take_twice_the_steps_and_have_an_mln_of_their_own(tmp_path: Path) -> None:
    study = Study("release/evidence-x4", tmp_path / "run", {"Mine": []})
    muon, adam = study.config("s3", 1), study.config("adam_s3", 1)
    assert (adam.student.steps, adam.student.encoder_steps) == (2 * muon.student.steps, 2 * muon.student.encoder_steps)
    for optimizer in ("", "adam_"):
        early = (
            study.config(f"{optimizer}t2_early", 1).teacher.steps,
            study.config(f"{optimizer}s3_early", 1).student.steps,
        )
        assert study.config(f"{optimizer}s6", 1).teacher.steps == sum(early)
        assert early[1] == 3 * early[0]
    assert {ROWS[row].mln for row in ROWS if study.config(row, 1).teacher.optimizer == "adam"} == {"adam_t2"}
    assert {ROWS[row].teacher for row in ROWS if row.startswith("adam_s3")} == {
        *("adam_t2", "adam_t2_early", "adam_t2_falling"),
    }
    assert {row for row in ROWS if study.config(row, 1).data.candidates == 1} == {row for row in ROWS if "adam_" in row}


def test_a_share_of_the_students_steps_is_for_the_encoder(tmp_path: Path) -> None:
    study = Study("release/evidence-x4", tmp_path / "run", {"Mine": []})
    shares = {row: study.config(row, 1).student for row in ("s3", "s3_early", "encoder_12", "encoder_50")}
    assert {row for row in ROWS if study.config(row, 1).student.distil_share is not None} == {
        *("s3_fading", "s3_told", "adam_s3_fading"),
    }
    assert {row: student.encoder_steps / student.steps for row, student in shares.items()} == {
        "s3": 0.25,
        "s3_early": 0.1,
        "encoder_12": 0.12,
        "encoder_50": 0.5,
    }


def test_the_shortest_study_has_a_step_for_every_row(tmp_path: Path) -> None:
    study = Study("release/evidence-x4", tmp_path / "run", {"Mine": []}, overrides=["train.steps=1"])
    assert all(study.config(row, 1).stage(ROWS[row].stage).steps >= 1 for row in ROWS)


def test_the_page_has_the_recorded_rows_and_these_are_of_the_study(tmp_path: Path) -> None:
    page = DOCS / "evidence.md"
    recorded = json.loads((DOCS / "evidence" / "distillation.json").read_text("utf-8"))
    assert markdown(recorded) in page.read_text("utf-8")
    study = Study("release/evidence-x4", tmp_path / "run", {"Mine": []})
    for row, found in recorded["rows"].items():
        for one in found:
            stage = study.config(row, one["seed"]).stage(ROWS[row].stage)
            assert (one["optimizer"], one["steps"]) == (stage.optimizer, stage.steps)


def test_the_rate_of_a_teacher_stays_and_that_of_a_network_without_a_student_falls(tmp_path: Path) -> None:
    study = Study("release/evidence-x4", tmp_path / "run", {"Mine": []})
    laws = {row: study.config(row, 1).stage(ROWS[row].stage).lr_law for row in ROWS}
    assert {row for row, law in laws.items() if law == "cosine" and ROWS[row].stage == "teacher"} == {
        *("t1", "s6", "s6_norm", "t3", "t2_falling"),
        *("adam_t1", "adam_s6", "adam_t3", "adam_t2_falling"),
    }
    assert {law for row, law in laws.items() if ROWS[row].stage == "student"} == {"cosine"}


def test_a_finished_row_is_kept(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(study, "_measured", lambda row, seed: made.append((row, seed)) or result())
    monkeypatch.setattr(study, "weights", lambda row, seed: Path())
    monkeypatch.setattr(study, "_blur_probe", lambda name: [[50, 0.5]])
    monkeypatch.setattr(study, "_idr_probe", lambda row, seed: [0.1 * seed])
    first = study.results()
    assert made == [(row, seed) for row in ROWS for seed in (1, 2)]
    (study.run_dir / "results" / "t2 2.json").unlink()
    assert study.results() == first
    assert first["idr_probes"] == {row: [[0.1], [0.2]] for row in IDR_PROBES}
    assert made[2 * len(ROWS) :] == [("t2", 2)]


def test_the_table_has_means_and_the_seeds_own_scores() -> None:
    table = markdown(results())
    muon, adam = (line for line in table.splitlines() if line.startswith(f"| {ROWS['s3'].title} |"))
    cells = [cell.strip() for cell in muon.split("|")[2:-1]]
    assert cells == ["Muon, 4", "20.50 (20.00, 21.00)", "0.50", "0.50", "0.40"]
    assert adam.split("|")[2].strip() == "Adam, 4"
    line, _ = (line for line in table.splitlines() if line.startswith(f"| {ROWS['t2'].title} |"))
    assert [cell.strip() for cell in line.split("|")[-3:-1]] == ["", ""]


def test_pictures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(results(), tmp_path)
    for name in ("blur-probe.png", "idr-by-blur.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 5


def test_a_probe_measures_on_what_it_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study("release/evidence-x4", tmp_path / "run", {"Mine": []})
    seen = []
    monkeypatch.setattr("mrda.paper.distillation.blur_probe", lambda *configs, **options: seen.append(configs) or [])
    monkeypatch.setattr(study, "_inputs", lambda row, seed: {"mln": Path()})
    for name in (*BLUR_PROBES, *FEATURE_PROBES):
        study._blur_probe(name)
    for config, fresh in seen:
        assert (fresh.degradation.per, fresh.data.candidates) == ("image", 1)
        assert fresh == config.model_copy(update={"degradation": fresh.degradation})
    assert [config.adaptation.on for config, _ in seen[-2:]] == ["other", "self"]


@pytest.mark.slow
def test_the_study_trains_measures_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    photos = []
    for number in range(2):
        photos.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(photos[-1])
    run = tmp_path / "run"
    rows = ("t1", "s6", "t2", "s3", "t3_early", "s3_told", "no_distillation")
    monkeypatch.setattr("mrda.paper.distillation.ROWS", {row: ROWS[row] for row in rows})
    monkeypatch.setattr("mrda.paper.distillation.BLUR_PROBES", dict(list(BLUR_PROBES.items())[:2]))
    monkeypatch.setattr("mrda.paper.distillation.FEATURE_PROBES", {"features": "t2"})
    monkeypatch.setattr("mrda.paper.distillation.IDR_PROBES", ("t2",))
    monkeypatch.setattr("mrda.paper.distillation.IDR_PROBE_STEPS", 1)
    monkeypatch.setattr("mrda.paper.distillation.PROBE_STEPS", 1)
    monkeypatch.setattr("mrda.paper.distillation.PROBE_EVERY", 1)
    table = ablate("toy", run, {"Mine": photos}, seeds=(1,), overrides=["train.steps=2"])
    report = json.loads((run / "distillation.json").read_text())
    assert (run / "distillation.md").read_text() == table
    assert set(report["rows"]) == set(rows)
    (s3,) = report["rows"]["s3"]
    assert set(s3["gradient_norms"]["last"]) == {
        f"{term} at {part}" for term in ("kl", "abs", "l1") for part in ("den", "rdan")
    }
    assert s3["gradient_norms"]["last"]["kl at rdan"] == 0
    assert s3["gradient_norms"]["last"]["l1 at rdan"] > 0
    assert report["rows"]["t3_early"][0]["silhouette"] > 0.99
    assert list(report["blur_probes"]) == [*list(BLUR_PROBES)[:2], "features"]
    assert report["rows"]["t2"][0]["steps"] == 2
    assert report["rows"]["s6"][0]["steps"] == 4
    assert Study("toy", run, {"Mine": photos}, seeds=(1,), overrides=["train.steps=2"]).results() == report
    with pytest.raises(RunRefusedError, match=r"teacher\.lr"):
        Study("toy", run, {"Mine": photos}, seeds=(1,), overrides=["train.steps=2", "teacher.lr=0.01"]).results()
