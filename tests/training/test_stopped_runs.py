"""Files that stopped runs leave, and resuming from them: checkpoints, best weights, half-written and foreign files."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from mrda.config import TrainConfig
from mrda.core.files import temporary_key
from mrda.training import RunRefusedError, train
from mrda.training.checkpoints import Checkpoints
from mrda.training.log import ScalarLog
from mrda.training.processes import Processes
from mrda.training.stages import BicubicStage, Stage
from mrda.training.trainer import Trainer
from mrda.training.validation import Validation, ValidationResult

Changed = Callable[..., TrainConfig]


@pytest.fixture
def validated(toy: TrainConfig, photo: Path, changed: Changed) -> TrainConfig:
    return changed(toy, validation={"sources": [str(photo)], "every": 2, "images": 1, "conditions": 1, "crop": 32})


class KilledError(RuntimeError):
    """Stands for the end of the process."""


def kill_in_step(patch: pytest.MonkeyPatch, at: int) -> None:
    loss = BicubicStage.loss

    def meddled(stage: BicubicStage, step: int, *arguments: object) -> dict[str, torch.Tensor]:
        if step == at:
            raise KilledError
        return loss(stage, step, *arguments)  # type: ignore[arg-type]

    patch.setattr(BicubicStage, "loss", meddled)


def interrupted_at(config: TrainConfig, run_dir: Path, at: int) -> Path:
    """Stage 1a's folder after a run that was killed in step ``at``, number from 0."""
    with pytest.MonkeyPatch.context() as patch:
        kill_in_step(patch, at)
        with pytest.raises(KilledError):
            train(config, run_dir, stages=["bicubic"], progress=False)
    return run_dir / "bicubic"


# Checkpoints


def saved_steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def bicubic_trainer(config: TrainConfig, validation: Validation | None = None) -> Trainer:
    processes = Processes(Accelerator(mixed_precision="no"), None)
    return Trainer(BicubicStage(config, {}), config, processes, validation=validation)


def saved_at(store: Checkpoints, trainer: Trainer, *steps: int) -> None:
    for step in steps:
        trainer.step = step
        store.save(trainer)


def test_saving_never_drops_the_checkpoint_just_saved(toy: TrainConfig, tmp_path: Path) -> None:
    trainer, store = bicubic_trainer(toy), Checkpoints(tmp_path, keep=2)
    saved_at(store, trainer, 7, 8, 1, 2, 3)
    assert saved_steps(tmp_path) == [f"step-0000000{step}" for step in (2, 3, 7, 8)]


def test_damaged_checkpoints_are_set_aside_and_push_no_good_one_out(
    toy: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, store = bicubic_trainer(toy), Checkpoints(tmp_path, keep=2)
    saved_at(store, trainer, 2)
    for step in (4, 6):  # damaged ones
        shutil.copytree(tmp_path / "step-00000002", tmp_path / f"step-0000000{step}")
        (tmp_path / f"step-0000000{step}" / "state.pt").unlink()
    (tmp_path / "damaged-step-00000006").mkdir()  # from an earlier run
    assert store.newest() == 2
    warnings = caplog.messages
    assert ["step-00000006" in warnings[0], "step-00000004" in warnings[1]] == [True, True]
    aside = ["damaged-step-00000004", "damaged-step-00000006"]
    assert saved_steps(tmp_path) == [*aside, "step-00000002"]
    saved_at(store, trainer, 3)
    assert saved_steps(tmp_path) == [*aside, "step-00000002", "step-00000003"]
    caplog.clear()
    assert store.newest() == 3
    assert caplog.messages == []


def test_every_process_takes_up_the_checkpoint_that_the_main_one_names(
    toy: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Changed
) -> None:
    config = changed(toy, train={"checkpoint_every": 1, "log_every": 1})
    folder = interrupted_at(config, tmp_path, 3)
    assert saved_steps(folder / "checkpoints") == ["step-00000002", "step-00000003"]
    taken: list[int] = []
    load = Checkpoints.load
    monkeypatch.setattr(
        Checkpoints, "load", lambda self, trainer, step: (taken.append(step), load(self, trainer, step))
    )
    monkeypatch.setattr("mrda.training.processes.Processes.broadcast", lambda self, item: 2)
    train(config, tmp_path, stages=["bicubic"], progress=False)
    assert taken == [2]


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stages", [["bicubic"], ["bicubic", "meta"]])
def test_a_signal_in_the_last_validation_ends_the_run_with_everything_saved(
    number: signal.Signals,
    stages: list[str],
    validated: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    measure, seen = Validation.measure, []

    def interrupting(self: Validation, stage: Stage, *arguments: object) -> ValidationResult:
        seen.append(stage.name)
        if seen == ["bicubic", "bicubic"]:  # in steps 2 and 4 of 4
            signal.raise_signal(number)
        return measure(self, stage, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "measure", interrupting)
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt):
            train(validated, tmp_path / "run", stages=stages)  # type: ignore[arg-type]
        assert signal.getsignal(number) == before
    assert "interrupted" in caplog.text
    assert seen == ["bicubic", "bicubic"]
    assert not (tmp_path / "run" / "meta").exists()
    expected = train(validated, tmp_path / "whole", stages=["bicubic"], progress=False)["bicubic"]
    for name in ("weights", "best"):
        file = f"{name}.safetensors"
        found, other = load_file(tmp_path / "run" / "bicubic" / file), load_file(expected.with_name(file))
        torch.testing.assert_close(found, other, rtol=0, atol=0)
    assert set(train(validated, tmp_path / "run", stages=stages, progress=False)) == set(stages)  # type: ignore[arg-type]


# The best weights


@pytest.mark.parametrize(
    ("change", "survives"),
    [
        ({}, True),
        ({"every": 4, "pictures": 0}, True),
        ({"crop": 24}, False),
        ({"protocol": "bicubic"}, False),
        ({"sources": []}, False),
    ],
)
def test_the_best_counts_under_its_own_validation(
    change: dict[str, object], survives: bool, validated: TrainConfig, tmp_path: Path, changed: Changed
) -> None:
    folder = interrupted_at(validated, tmp_path, 2)
    (folder / "best.safetensors").write_text("stale")
    with pytest.MonkeyPatch.context() as patch:
        kill_in_step(patch, 2)  # at once, but after the checkpoint is loaded
        with pytest.raises(KilledError):
            train(changed(validated, validation=change), tmp_path, stages=["bicubic"], progress=False)
    assert (folder / "best.safetensors").exists() == survives
    # The score in the checkpoint is forgotten too.
    config = changed(validated, validation=change)
    trainer = bicubic_trainer(config, Validation(config) if config.validation.sources else None)
    Checkpoints(folder / "checkpoints", keep=2).load(trainer, 2)
    assert (trainer.best is not None) == survives


def test_a_best_without_a_checkpoint_that_knows_it_is_removed(
    validated: TrainConfig, tmp_path: Path, changed: Changed, caplog: pytest.LogCaptureFixture
) -> None:
    folder = interrupted_at(changed(validated, train={"checkpoint_every": 100}), tmp_path, 2)
    assert (folder / "best.safetensors").exists()
    train(changed(validated, validation={"sources": []}), tmp_path, stages=["bicubic"])
    assert not (folder / "best.safetensors").exists()
    assert f"removed {folder / 'best.safetensors'}" in caplog.text


# Leftovers


def half(path: Path) -> None:
    """Leave a temporary file of `path`, as a killed process does."""
    path.with_name(f".mrda-{temporary_key(path.name)}-0123abcd{path.suffix}").write_text("half")


def test_leftovers_of_a_killed_run_are_gone_after_the_next(toy: TrainConfig, tmp_path: Path) -> None:
    train(toy, tmp_path, stages=["bicubic"], progress=False)
    folder = interrupted_at(toy, tmp_path / "other", 3)
    for run_dir in (tmp_path, folder.parent):  # a finished stage, and one to continue
        for path in (
            "config.yaml",
            "environment.json",
            *(f"bicubic/{name}.safetensors" for name in ("weights", "best")),
        ):
            place = run_dir / path
            half(place)
        for name in ("log.jsonl", "recipe.json"):
            half(run_dir / "bicubic" / name)
        # A checkpoint at a step that is never saved again, and a deletion.
        (run_dir / "bicubic" / "checkpoints" / ".step-00000003").mkdir()
        half(run_dir / "bicubic" / "checkpoints" / ".step-00000003" / "state.pt")
        (run_dir / ".bicubic.trash").mkdir()
        assert len(list(run_dir.glob("**/.*"))) >= 8
        train(toy, run_dir, stages=["bicubic"], progress=False)
        assert not [path for path in run_dir.glob("**/.*") if "other" not in path.parts]


# Files that no run has written


@pytest.mark.parametrize(
    "line", ["nonsense", "[1]", "7", "{}", '{"step": "two"}', '{"step": 1, "lo', "\xff\xfe"], ids=repr
)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_log_with_a_line_that_is_no_record_is_refused(
    steps: int, line: str, toy: TrainConfig, tmp_path: Path
) -> None:
    folder = interrupted_at(toy, tmp_path, steps)
    log = folder / "log.jsonl"
    log.write_bytes(log.read_bytes() + line.encode("latin-1") + b"\n")
    before = log.read_bytes()
    number = before.count(b"\n")
    with pytest.raises(RunRefusedError, match=rf"^line {number} of .*log\.jsonl is not a record that a run writes: "):
        train(toy, tmp_path, stages=["bicubic"], progress=False)
    with pytest.raises(RunRefusedError, match=rf"line {number} of"):
        ScalarLog(folder, 0)
    assert log.read_bytes() == before
    train(toy, tmp_path, stages=["bicubic"], resume=False, progress=False)


def test_a_log_that_can_not_be_gone_on_with_costs_no_training(toy: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "log.jsonl").write_text("nonsense\n")
    with pytest.raises(RunRefusedError, match="line 1 of"):
        train(toy, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "{", "\xff"])
def test_a_recipe_that_is_no_object_is_refused(text: str, toy: TrainConfig, tmp_path: Path) -> None:
    folder = interrupted_at(toy, tmp_path, 3)
    (folder / "recipe.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunRefusedError, match=r"recipe\.json is not the JSON that a run writes"):
        train(toy, tmp_path, stages=["bicubic"], progress=False)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["bicubic", "student"])
def test_a_file_in_the_place_of_a_stages_folder_is_refused_before_any_training(
    name: str, resume: bool, toy: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("notes")
    with pytest.raises(RunRefusedError, match=rf"{name} must be the folder of a stage, but is a file"):
        train(toy, tmp_path, resume=resume, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_log_holds_only_what_json_can(tmp_path: Path) -> None:
    with ScalarLog(tmp_path, 0) as log:
        log.validated(1, ValidationResult(float("nan"), 0.5, float("inf"), [20.0, float("nan"), float("inf")], {}))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    found = json.loads(line, parse_constant=refuse)["validation"]
    assert found == {"psnr_y": None, "ssim_y": 0.5, "psnr_y_bicubic": None, "adaptation_curve": [20.0, None, None]}


@pytest.mark.parametrize("emulates", [True, False])
def test_a_processor_that_emulates_bfloat16_is_warned_of(
    emulates: bool,
    toy: TrainConfig,
    changed: Changed,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mrda.training.run.has_bfloat16", lambda _: not emulates)
    for precision in ("no", "bf16"):
        caplog.clear()
        config = changed(toy, train={"mixed_precision": precision})
        train(config, tmp_path / precision, stages=["bicubic"], progress=False)
        assert ("train.mixed_precision=no" in caplog.text) == (emulates and precision == "bf16")
