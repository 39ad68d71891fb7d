import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrda.config import STAGES, TrainConfig
from mrda.paper.ablation_rows import ROWS, STUDENTS, TABLE_6, Study
from mrda.training import STAGES as STAGE_CLASSES
from mrda.training.checkpoints import recipe_of

MakeStudy = Callable[..., Study]


@pytest.fixture
def study(tmp_path: Path) -> MakeStudy:
    def make(*overrides: str, base: str | Path = "toy", preset: str = "recommended") -> Study:
        return Study(base, 2, tmp_path / "run", overrides, preset, progress=False)

    return make


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The stages that are trained, each with its run's folder; the weights say only how they would be made."""
    found: list[tuple[str, str]] = []

    def train(config: TrainConfig, run_dir: Path, *, stages: list[Any], progress: bool) -> dict[str, Path]:
        (name,) = stages
        section, stage = config.stage(name), STAGE_CLASSES[name]
        inputs = {key: getattr(section, f"init_{key}") for key in stage.inputs(config)}
        path = run_dir / name / "weights.safetensors"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(recipe_of(stage, config, inputs)))
        found.append((run_dir.name, name))
        return {name: path}

    monkeypatch.setattr("mrda.paper.ablation_rows.train", train)
    return found


ALIKE = [
    *(("mln", "bicubic"), ("mln", "meta"), ("t2", "teacher"), ("t1", "teacher"), ("t3", "teacher")),
    *(("s1", "student"), ("s2", "student"), ("s3", "student")),
    *(("s4", "teacher"), ("s4", "student"), ("s5", "teacher"), ("s5", "student"), ("s6", "teacher")),
]
FREE = [("free_upscaler", "meta"), ("free_upscaler", "teacher")]
FIXED = [("fixed_upscaler", "meta"), ("fixed_upscaler", "teacher")]


@pytest.mark.parametrize(
    ("overrides", "preset", "more", "same_as_t2"),
    [
        ([], "recommended", FREE, "fixed_upscaler"),
        ([], "official", [*FREE, *FIXED], None),
        (["freeze_upscaler=student_only"], "recommended", [*FREE, *FIXED], None),
        (["freeze_upscaler=none"], "recommended", FIXED, "free_upscaler"),
    ],
)
def test_rows_share_what_is_trained_alike_and_nothing_else(
    overrides: list[str],
    preset: str,
    more: list[tuple[str, str]],
    same_as_t2: str | None,
    study: MakeStudy,
    runs: list[tuple[str, str]],
) -> None:
    made = study(*overrides, preset=preset)
    weights = {row: made.final(row) for row in ("t2", *ROWS)}
    assert sorted(runs) == sorted(ALIKE + more)
    assert [row for row in TABLE_6 if weights[row] == weights["t2"]] == ([same_as_t2] if same_as_t2 else [])
    # The teacher of each row of Table VI, and the MLN that it started from, were trained as the row says.
    for row, frozen in TABLE_6.items():
        for stage in ("meta", "teacher"):
            recipe = json.loads(made.weights(row, stage).read_text())  # type: ignore[arg-type]
            effective = {"all": True, "student_only": False, "none": False}[recipe["freeze_upscaler"]]
            assert effective == frozen


def test_students_of_one_network_share_the_teacher(study: MakeStudy, runs: list[tuple[str, str]]) -> None:
    made = study()
    for row in ROWS:
        made.final(row)
    assert {made.weights(row, "teacher") for row in ("s1", "s2", "s3")} == {made.weights("t2", "teacher")}
    assert len({made.weights(row, "teacher") for row in ("s3", "s4", "s5")}) == 3
    assert len({made.weights(row, "meta") for row in STUDENTS}) == 1
    assert len({made.final(row) for row in ROWS}) == len(ROWS) - 1


def test_a_row_s_own_settings_hold_against_the_user_s(study: MakeStudy) -> None:
    changes = ("student.lambda_kl=0.5", "student.lambda_abs=0.3", "freeze_upscaler=student_only", "meta.tasks=3")
    configs = study(*changes, "networks.conv_type=rda").configs
    weights = {row: (configs[row].student.lambda_kl, configs[row].student.lambda_abs) for row in ("s1", "s2", "s3")}
    assert weights == {"s1": (0, 0.3), "s2": (0.5, 0), "s3": (0.5, 0.3)}
    assert [configs[row].networks.conv_type for row in ("s3", "s4", "s5")] == ["rda", "dasr_da", "static"]
    frozen = {row: configs[row].freeze_upscaler for row in ("t2", "free_upscaler", "fixed_upscaler")}
    assert frozen == {"t2": "student_only", "free_upscaler": "none", "fixed_upscaler": "all"}
    assert {configs[row].meta.tasks for row in ROWS} == {3}
    assert configs["s4"].train.stages == list(STAGES)
    # S3's RDAN moves in both steps of the teacher and in one of the student's two.
    assert {row: configs[row].teacher.steps for row in ROWS} == {row: 3 if row == "s6" else 2 for row in ROWS}


@pytest.mark.parametrize("change", ["train.steps=9", "teacher.steps=9", "train.stages=[bicubic]"])
def test_what_the_study_sets_itself_is_refused(study: MakeStudy, change: str) -> None:
    with pytest.raises(ValueError, match=rf"{change.partition('=')[0]} of a study is set by .*: leave it out"):
        study(change)


def test_a_row_s_own_settings_hold_against_the_preset(study: MakeStudy) -> None:
    configs = study(preset="official").configs
    assert [configs[row].freeze_upscaler for row in ("t2", *TABLE_6)] == ["student_only", "none", "all"]
    assert study("student.lambda_abs=0.2", preset="paper").configs["s2"].student.lambda_abs == 0


def test_the_base_may_extend_what_the_rows_extend(study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: classic-iso-x4\nnetworks: {num_feat: 8}\n")
    configs = study(base=tmp_path / "mine.yaml").configs
    assert {config.networks.num_feat for config in configs.values()} == {8}
    assert configs["s5"].networks.conv_type == "static"
    assert configs["s5"].degradation.sigma_range == (0.2, 4.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.lambda_kl=0", "rows s1 and s3 of the study would be the same"),
        ("student.lambda_abs=0", "rows s2 and s3 of the study would be the same"),
        ("networks.conv_type=dasr_da", "rows s3 and s4 of the study would be the same"),
        ("teacher.den_input=lr", "stage 'student' requires a teacher that sees more than LR"),
        ("degradation.kernel=none", "teacher.den_input=kernel requires blur kernels"),
        ("networks.mask_channels=C", "mask_channels is 'C', but must be 1 where conv_type is 'dasr_da'"),
        ("meta.init_mln=mln.safetensors", "meta.init_mln is mln.safetensors, but a study trains every stage itself"),
        ("student.init_teacher=t.safetensors", "student.init_teacher is t.safetensors, but a study"),
    ],
)
def test_a_base_of_which_the_rows_can_t_be_made_is_refused(override: str, message: str, study: MakeStudy) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        study(override)
    assert message in str(caught.value)
