import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mrda.config import StageName, TrainConfig
from mrda.training import STAGES, train
from mrda.training.interrupt import deferred_interrupt
from mrda.training.stage import Stage

Changed = Callable[..., TrainConfig]
Loss = dict[str, Tensor]


class KilledError(RuntimeError):
    """Stands for the end of the process between two checkpoints."""


@pytest.fixture(scope="module")
def finished(toy: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of an uninterrupted toy run."""
    run_dir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        train(toy, run_dir, progress=False)
    return run_dir


@pytest.fixture
def alone(toy: TrainConfig, finished: Path, changed: Changed) -> Callable[[StageName], TrainConfig]:
    """The toy config in which one stage starts from the finished run's weights."""

    def config(name: StageName) -> TrainConfig:
        made = {
            f"init_{key}": str(finished / maker / "weights.safetensors") for key, maker in STAGES[name].inputs.items()
        }
        return changed(toy, **{name: made})

    return config


def meddle(patch: pytest.MonkeyPatch, name: StageName, at: int, deed: Callable[[Loss], Loss]) -> None:
    """Let ``deed`` change, or prevent, the losses that a stage computes in step ``at``."""
    loss = STAGES[name].loss

    def meddled(stage: Stage, step: int, hr: Tensor, draws: torch.Generator) -> Loss:
        terms = loss(stage, step, hr, draws)
        return deed(terms) if step == at else terms

    patch.setattr(STAGES[name], "loss", meddled)


def ctrl_c(terms: Loss) -> Loss:
    # The meta stage comes here once per task, and a second Ctrl-C would not wait for the end of the step.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.raise_signal(signal.SIGINT)
    return terms


def kill(terms: Loss) -> Loss:
    raise KilledError


def poison(terms: Loss) -> Loss:
    return {**terms, "loss": terms["loss"] * float("nan")}


def losses(folder: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize(
    ("at", "deed", "error", "left"),
    [
        # The toy saves every 2 steps. Ctrl-C in the third one (number 2) adds a checkpoint of its own; a kill
        # in the fourth loses the third, which is in the log already.
        (2, ctrl_c, KeyboardInterrupt, "step-00000003"),
        (3, kill, KilledError, "step-00000002"),
    ],
)
def test_a_resumed_stage_ends_bit_equal(
    name: StageName,
    at: int,
    deed: Callable[[Loss], Loss],
    error: type[BaseException],
    left: str,
    finished: Path,
    alone: Callable[[StageName], TrainConfig],
    tmp_path: Path,
) -> None:
    config = alone(name).model_copy(update={"log_every": 1})
    reference = train(config, tmp_path / "uninterrupted", stages=[name], progress=False)[name]
    with pytest.MonkeyPatch.context() as patch:
        meddle(patch, name, at, deed)
        with pytest.raises(error):
            train(config, tmp_path / "resumed", stages=[name], progress=False)
    assert not (tmp_path / "resumed" / name / "weights.safetensors").exists()
    assert checkpoints(tmp_path / "resumed" / name)[-1] == left

    with (tmp_path / "resumed" / name / "log.jsonl").open("a") as log:
        log.write('{"step": 1, "lo')
    resumed = train(config, tmp_path / "resumed", stages=[name], progress=False)[name]
    torch.testing.assert_close(load_file(resumed), load_file(reference), rtol=0, atol=0)
    # The stage alone is the stage of the chain, too.
    chained = load_file(finished / name / "weights.safetensors")
    torch.testing.assert_close(load_file(resumed), chained, rtol=0, atol=0)
    assert losses(resumed.parent) == losses(reference.parent)


def test_the_newest_checkpoints_are_kept(finished: Path) -> None:
    assert checkpoints(finished / "student") == ["step-00000004", "step-00000006"]


def test_an_unfinished_checkpoint_is_no_checkpoint(toy: TrainConfig, finished: Path, tmp_path: Path) -> None:
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if target.name == "step-00000004":
            raise KilledError
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(KilledError):
            train(toy, tmp_path, stages=["bicubic"], progress=False)
    assert checkpoints(tmp_path / "bicubic") == [".step-00000004", "step-00000002"]
    weights = train(toy, tmp_path, stages=["bicubic"], progress=False)["bicubic"]
    expected = load_file(finished / "bicubic" / "weights.safetensors")
    torch.testing.assert_close(load_file(weights), expected, rtol=0, atol=0)
    assert checkpoints(tmp_path / "bicubic") == ["step-00000002", "step-00000004"]


def test_finished_stages_are_skipped(toy: TrainConfig, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("weights.safetensors")}
    monkeypatch.setattr("mrda.training.pipeline.run_stage", kill)
    assert set(train(toy, finished, progress=False).values()) == set(before)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_without_resume_a_finished_stage_is_trained_anew(toy: TrainConfig, tmp_path: Path, changed: Changed) -> None:
    first = load_file(train(toy, tmp_path, stages=["bicubic"], progress=False)["bicubic"])
    other = changed(toy, seed=2)
    second = load_file(train(other, tmp_path, stages=["bicubic"], resume=False, progress=False)["bicubic"])
    assert not any(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("meta", {"meta": {"tasks": 3}}, r"meta.tasks = 2, now it is 3"),
        ("student", {"seed": 5}, r"seed = 1, now it is 5"),
        ("teacher", {"networks": {"num_feat": 4}}, r"networks.num_feat = 8, now it is 4"),
    ],
)
def test_a_changed_config_is_refused(
    name: StageName,
    change: dict[str, object],
    message: str,
    toy: TrainConfig,
    finished: Path,
    changed: Changed,
) -> None:
    resolved = (finished / "config.yaml").read_text()
    with pytest.raises(ValueError, match=message):
        train(changed(toy, **change), finished, stages=[name], progress=False)
    assert (finished / "config.yaml").read_text() == resolved


def test_a_change_that_does_not_matter_is_no_obstacle(toy: TrainConfig, finished: Path, changed: Changed) -> None:
    config = changed(toy, log_every=7, networks={"num_feat": 4}, student={"lr": 1.0})
    train(config, finished, stages=["bicubic", "meta"], progress=False)


def test_new_weights_of_an_earlier_stage_are_noticed(
    toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed
) -> None:
    train(toy, tmp_path, stages=["bicubic", "meta"], progress=False)
    other = changed(toy, bicubic={"lr": 2e-3})
    train(other, tmp_path, stages=["bicubic"], resume=False, progress=False)
    with pytest.raises(ValueError, match=r"SHA-256 of the weights 'mln'"):
        train(other, tmp_path, stages=["meta"], progress=False)


def test_a_stage_without_its_predecessor_says_what_to_run(
    toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed
) -> None:
    with pytest.raises(ValueError, match=r"'teacher' needs .*: train stage 'meta' first or set teacher.init_mln"):
        train(toy, tmp_path, stages=["teacher"], progress=False)
    lost = changed(toy, student={"init_mln": str(finished / "meta" / "weights.safetensors"), "init_teacher": "no"})
    with pytest.raises(ValueError, match=r"'student' needs the weights no, which do not exist"):
        train(lost, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_other_sizes_are_refused(toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed) -> None:
    made = str(finished / "meta" / "weights.safetensors")
    config = changed(toy, networks={"mln_feat": 4}, teacher={"init_mln": made})
    with pytest.raises(ValueError, match=r"were made with num_feat=8, the config says 4"):
        train(config, tmp_path, stages=["teacher"], progress=False)


def test_unknown_stages_are_refused(toy: TrainConfig, tmp_path: Path) -> None:
    for stages in (["techer"], []):
        with pytest.raises(ValueError, match="stages must be some of bicubic, meta, teacher, student, it was"):
            train(toy, tmp_path, stages=stages, progress=False)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_stops_and_spoils_nothing(toy: TrainConfig, tmp_path: Path, finished: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        meddle(patch, "bicubic", 3, poison)
        with pytest.raises(FloatingPointError, match="stage 'bicubic' stopped: in step 3 loss is nan"):
            train(toy, tmp_path, stages=["bicubic"], progress=False)
    assert checkpoints(tmp_path / "bicubic") == ["step-00000002"]
    assert losses(tmp_path / "bicubic") == losses(finished / "bicubic")[:1]
    weights = load_file(train(toy, tmp_path, stages=["bicubic"], progress=False)["bicubic"])
    expected = load_file(finished / "bicubic" / "weights.safetensors")
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


def test_the_second_ctrl_c_interrupts_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
