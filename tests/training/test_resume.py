import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from mrda.config import StageName, TrainConfig
from mrda.degradations import Degraded
from mrda.networks import MRDAStudent, save_network
from mrda.training import STAGES, RunRefusedError, train
from mrda.training.checkpoints import Checkpoints
from mrda.training.components import load_initial_weights
from mrda.training.processes import Processes, deferred_interrupt
from mrda.training.stages import BicubicStage, Stage, TeacherStage
from mrda.training.trainer import Trainer

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
            f"init_{key}": str(finished / maker / "weights.safetensors")
            for key, maker in STAGES[name].inputs(toy).items()
        }
        return changed(toy, **{name: made})

    return config


def meddle(patch: pytest.MonkeyPatch, name: StageName, at: int, deed: Callable[[Loss], Loss]) -> None:
    """Apply ``deed`` to the losses that a stage computes in step ``at``."""
    loss = STAGES[name].loss

    def meddled(stage: Stage, step: int, pair: Degraded) -> Loss:
        terms = loss(stage, step, pair)
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
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


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
    changed: Changed,
    tmp_path: Path,
) -> None:
    config = changed(alone(name), train={"log_every": 1})
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
    # A stage on its own gives the same weights as the stage in a run of all four.
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


def test_a_checkpoint_is_on_the_disk_before_its_name_is(
    toy: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(BicubicStage(toy, {}), toy, Processes(Accelerator(mixed_precision="no"), None))
    store = Checkpoints(tmp_path, keep=1)
    synced = []

    def fsync(descriptor: int) -> None:
        assert store.steps() == []
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = store.save(trainer)
    assert sorted(synced) == sorted(path.stat().st_size for path in folder.iterdir())


def test_finished_stages_are_skipped(toy: TrainConfig, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("weights.safetensors")}
    monkeypatch.setattr("mrda.training.trainer.Trainer.train", lambda *_: kill({}))
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
        ("meta", {"meta": {"tasks": 3}}, r"meta.tasks = 2, but now it is 3"),
        ("student", {"seed": 5}, r"seed = 1, but now it is 5"),
        ("teacher", {"networks": {"num_feat": 4}}, r"networks.num_feat = 8, but now it is 4"),
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
    with pytest.raises(RunRefusedError, match=message):
        train(changed(toy, **change), finished, stages=[name], progress=False)
    assert (finished / "config.yaml").read_text() == resolved


def test_stage_1a_depends_on_the_blur_only_where_it_has_one(toy: TrainConfig, tmp_path: Path, changed: Changed) -> None:
    for blur in (False, True):
        config = changed(toy, bicubic={"blur": blur})
        other = changed(config, degradation={"kernel": "anisotropic"})
        train(config, tmp_path / str(blur), stages=["bicubic"], progress=False)
        with pytest.raises(RunRefusedError, match=r"degradation\.kernel") if blur else nullcontext():
            train(other, tmp_path / str(blur), stages=["bicubic"], progress=False)


def test_a_validation_that_finds_nan_is_never_the_best(toy: TrainConfig) -> None:
    trainer = Trainer(BicubicStage(toy, {}), toy, Processes(Accelerator(mixed_precision="no"), None))
    noted = [(psnr, trainer.is_best(psnr)) for psnr in (math.nan, 20.0, math.nan, 19.0, 20.0, 20.5)]
    assert [psnr for psnr, best in noted if best] == [20.0, 20.5]


def test_a_change_that_does_not_matter_is_no_obstacle(toy: TrainConfig, finished: Path, changed: Changed) -> None:
    config = changed(toy, train={"log_every": 7}, networks={"num_feat": 4}, student={"lr": 1.0})
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
    with pytest.raises(ValueError, match=r"'teacher' requires .*: train stage 'meta' first or set teacher.init_mln"):
        train(toy, tmp_path, stages=["teacher"], progress=False)
    lost = changed(toy, student={"init_mln": str(finished / "meta" / "weights.safetensors"), "init_teacher": "no"})
    with pytest.raises(ValueError, match=r"'student' requires the weights no, which do not exist"):
        train(lost, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_other_sizes_are_refused(toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed) -> None:
    made = str(finished / "meta" / "weights.safetensors")
    config = changed(toy, networks={"mln_feat": 4}, teacher={"init_mln": made})
    with pytest.raises(ValueError, match=r"were made with num_feat=8, but the configuration has 4"):
        train(config, tmp_path, stages=["teacher"], progress=False)


@pytest.mark.parametrize("stage", ["bicubic", "meta", "teacher", "student"])
def test_another_run_goes_on_from_the_weights_of_a_stage(
    stage: StageName, toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed
) -> None:
    before = load_file(finished / stage / "weights.safetensors")
    leg = {"init_network": str(finished / stage / "weights.safetensors"), "steps": 1, "lr": 1e-30}
    if stage == "student":
        leg |= {"encoder_steps": 0, "init_teacher": str(finished / "teacher" / "weights.safetensors")}
    if stage in ("teacher", "student"):
        leg["init_mln"] = str(finished / "meta" / "weights.safetensors")
    if stage == "meta":
        leg["init_mln"] = str(finished / "bicubic" / "weights.safetensors")
    config = changed(toy, **{stage: leg})
    after = load_file(train(config, tmp_path, stages=[stage], progress=False)[stage])
    assert all(torch.equal(before[key], tensor) for key, tensor in after.items())


@pytest.mark.parametrize("file", ["weights.safetensors", "best.safetensors"])
def test_weights_to_start_from_are_not_those_that_the_run_is_to_replace(
    file: str, toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed
) -> None:
    path = tmp_path / "bicubic" / file
    path.parent.mkdir()
    shutil.copy(finished / "bicubic" / "weights.safetensors", path)
    config = changed(toy, bicubic={"init_network": str(path)})
    with pytest.raises(RunRefusedError, match=r"bicubic.init_network is .*, where this run writes its own"):
        train(config, tmp_path, stages=["bicubic"], resume=False, progress=False)
    assert path.is_file()


def test_of_another_kind_of_network_the_rdan_alone_is_taken(
    toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed
) -> None:
    student = load_file(finished / "student" / "weights.safetensors")
    fresh = TeacherStage.build(toy).state_dict()
    start = {"init_network": str(finished / "student" / "weights.safetensors"), "steps": 1, "lr": 1e-30}
    config = changed(toy, teacher=start | {"init_mln": str(finished / "meta" / "weights.safetensors")})
    made = load_file(train(config, tmp_path, stages=["teacher"], progress=False)["teacher"])
    assert all(torch.equal(student[key], tensor) for key, tensor in made.items() if key.startswith("rdan."))
    assert made["den.mlp.0.weight"].shape == fresh["den.mlp.0.weight"].shape
    assert not torch.equal(made["den.mlp.0.weight"], student["den.mlp.0.weight"])


def test_of_fewer_blocks_the_rdan_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    few, many = (MRDAStudent(scale=2, num_feat=4, num_blocks=blocks, den_width=2) for blocks in (2, 5))
    save_network(few, tmp_path / "few.safetensors")
    load_initial_weights(many, tmp_path / "few.safetensors")
    lr = torch.rand(1, 3, 7, 6)
    torch.testing.assert_close(many(lr), few(lr), rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(many(lr).square().sum(), [block.conv2.weight for block in many.rdan.blocks])
    assert all(gradient.any() for gradient in gradients)
    save_network(many, tmp_path / "many.safetensors")
    with pytest.raises(ValueError, match="were made with num_blocks=5, but the configuration has 2"):
        load_initial_weights(few, tmp_path / "many.safetensors")


@pytest.mark.parametrize(("scale", "shared"), [(2, ["expand.0", "last"]), (3, ["last"])])
def test_of_another_scale_all_but_the_upscaler_is_taken(scale: int, shared: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = MRDAStudent(scale=4, num_feat=4, num_blocks=2, den_width=2)
    save_network(saved, tmp_path / "x4.safetensors")
    network = MRDAStudent(scale=scale, num_feat=4, num_blocks=3, den_width=2)
    load_initial_weights(network, tmp_path / "x4.safetensors")
    weights = network.state_dict()
    same = [key for key, value in saved.state_dict().items() if torch.equal(weights.get(key, torch.empty(0)), value)]
    upscaler = [f"rdan.upscaler.{layer}.{part}" for layer in shared for part in ("weight", "bias")]
    assert [key for key in same if "upscaler" in key] == upscaler
    assert all(key in same for key in saved.state_dict() if not key.startswith(("rdan.upscaler.", "rdan.blocks.1")))


def test_the_rdan_of_a_student_may_have_a_rate_of_its_own(
    toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed
) -> None:
    teacher = load_file(finished / "teacher" / "weights.safetensors")
    start = {
        key: str(finished / stage / "weights.safetensors")
        for key, stage in (("init_mln", "meta"), ("init_teacher", "teacher"))
    }
    config = changed(toy, student=start | {"steps": 2, "encoder_steps": 0, "rdan_lr_factor": 1e-30})
    made = load_file(train(config, tmp_path, stages=["student"], progress=False)["student"])
    assert all(torch.equal(teacher[key], tensor) for key, tensor in made.items() if key.startswith("rdan."))
    config = changed(toy, student=start | {"steps": 2, "encoder_steps": 0, "lr": 1e-30})
    still = load_file(train(config, tmp_path / "still", stages=["student"], progress=False)["student"])
    assert any(not torch.equal(still[key], tensor) for key, tensor in made.items() if key.startswith("den."))


def test_weights_of_another_kind_are_no_start_for_a_stage(
    toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed
) -> None:
    for path, reason in (
        (finished / "meta" / "weights.safetensors", "holds the network MLN, which a MRDAStudent can't start from"),
        (finished / "none.safetensors", "no such file"),
    ):
        with pytest.raises(RunRefusedError, match=reason):
            train(changed(toy, student={"init_network": str(path)}), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("results", ["weights.safetensors", "checkpoints"])
def test_results_without_a_recipe_are_refused(results: str, toy: TrainConfig, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "bicubic", tmp_path / "bicubic")
    (tmp_path / "bicubic" / "recipe.json").unlink()
    for other in {"weights.safetensors", "checkpoints"} - {results}:
        path = tmp_path / "bicubic" / other
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunRefusedError, match=r"bicubic holds results but no recipe\.json"):
        train(toy, tmp_path, stages=["bicubic"], progress=False)
    train(toy, tmp_path, stages=["bicubic"], resume=False, progress=False)


def test_an_option_younger_than_a_run_had_its_default_then(
    toy: TrainConfig, finished: Path, changed: Changed, tmp_path: Path
) -> None:
    shutil.copytree(finished / "bicubic", tmp_path / "bicubic")
    path = tmp_path / "bicubic" / "recipe.json"
    recipe = json.loads(path.read_text())
    del recipe["data.use_hflip"]
    path.write_text(json.dumps(recipe))
    train(toy, tmp_path, stages=["bicubic"], progress=False)
    with pytest.raises(RunRefusedError, match=r"data\.use_hflip = True, but now it is False"):
        train(changed(toy, data={"use_hflip": False}), tmp_path, stages=["bicubic"], progress=False)


def test_a_damaged_recipe_is_refused_by_its_name(toy: TrainConfig, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "bicubic", tmp_path / "bicubic")
    (tmp_path / "bicubic" / "recipe.json").write_text("{")
    with pytest.raises(RunRefusedError, match=r"recipe\.json is not the JSON"):
        train(toy, tmp_path, stages=["bicubic"], progress=False)


def test_old_results_lose_their_name_before_they_are_deleted(
    toy: TrainConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "bicubic", tmp_path / "bicubic")
    with monkeypatch.context() as patch:

        def rmtree(path: Path) -> None:
            assert not (tmp_path / "bicubic").exists()
            raise KilledError

        patch.setattr("mrda.training.checkpoints.shutil.rmtree", rmtree)
        with pytest.raises(KilledError):
            train(toy, tmp_path, stages=["bicubic"], resume=False, progress=False)
    train(toy, tmp_path, stages=["bicubic"], resume=False, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bicubic", "config.yaml", "environment.json"]


def damage(checkpoint: Path, name: str, how: str) -> None:
    whole = (checkpoint / name).read_bytes()
    if how == "cut short":
        (checkpoint / name).write_bytes(whole[: len(whole) // 2])
    elif how == "one bit":
        (checkpoint / name).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    else:
        (checkpoint / name).unlink()


@pytest.mark.parametrize("how", ["cut short", "one bit", "missing"])
@pytest.mark.parametrize("name", ["state.pt", "network.safetensors", "files.json"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    name: str, how: str, toy: TrainConfig, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        meddle(patch, "student", 5, kill)
        shutil.copytree(finished, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "student")
        with pytest.raises(KilledError):
            train(toy, tmp_path / "run", stages=["student"], progress=False)
    student = tmp_path / "run" / "student"
    assert checkpoints(student) == ["step-00000002", "step-00000004"]
    damage(student / "checkpoints" / "step-00000004", name, how)
    weights = train(toy, tmp_path / "run", stages=["student"])["student"]
    said = caplog.text
    assert f"{student / 'checkpoints' / 'step-00000004'} is damaged (" in said
    assert checkpoints(student) == ["damaged-step-00000004", "step-00000004", "step-00000006"]
    assert name in said or (name, how) == (
        "files.json",
        "one bit",
    )  # then the hash of a file differs from the listed one
    expected = load_file(finished / "student" / "weights.safetensors")
    torch.testing.assert_close(load_file(weights), expected, rtol=0, atol=0)
    assert losses(student) == losses(finished / "student")


def test_unusable_weights_that_are_given_cost_no_training(
    toy: TrainConfig, finished: Path, tmp_path: Path, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrda.training.trainer.Trainer.train", lambda *_: kill({}))
    (tmp_path / "junk.safetensors").write_text("junk")
    wrong = finished / "meta" / "weights.safetensors"
    for path, message in ((tmp_path / "junk.safetensors", r"junk\.safetensors cannot be read"), (wrong, "hold MLN")):
        config = changed(toy, student={"init_teacher": str(path)})
        with pytest.raises(RunRefusedError, match=message):
            train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_weights_found_in_the_run_are_looked_at_first(
    toy: TrainConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "meta", tmp_path / "meta")
    monkeypatch.setattr("mrda.training.trainer.Trainer.train", lambda *_: kill({}))
    (tmp_path / "meta" / "weights.safetensors").write_text("junk")
    with pytest.raises(RunRefusedError, match="cannot be read"):
        train(toy, tmp_path, progress=False)
    # They do not matter if the run replaces them.
    with pytest.raises(KilledError):
        train(toy, tmp_path, resume=False, progress=False)


def test_a_value_error_in_the_training_is_not_the_users(
    toy: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(terms: Loss) -> Loss:
        raise ValueError("a bug")

    meddle(monkeypatch, "bicubic", 0, fail)
    with pytest.raises(ValueError, match="a bug") as raised:
        train(toy, tmp_path, stages=["bicubic"], progress=False)
    assert not isinstance(raised.value, RunRefusedError)


def test_a_run_directory_that_is_a_file_is_refused(toy: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for run_dir in (tmp_path / "file", tmp_path / "file" / "deep", tmp_path / "new" / ("x" * 300)):
        with pytest.raises(RunRefusedError, match=r"the run directory .* can't be created"):
            train(toy, run_dir, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_ctrl_c_after_the_look_waits_for_the_next_step(
    toy: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Changed
) -> None:
    looks = iter([False, False, True])  # before the stage, and in its first and its second step

    @contextmanager
    def interrupt() -> Iterator[Callable[[], bool]]:
        yield lambda: next(looks)

    monkeypatch.setattr("mrda.training.run.deferred_interrupt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(changed(toy, train={"checkpoint_every": 100}), tmp_path, stages=["bicubic"], progress=False)
    assert checkpoints(tmp_path / "bicubic") == ["step-00000002"]


def test_unknown_stages_are_refused(toy: TrainConfig, tmp_path: Path) -> None:
    for stages in (["techer"], []):
        with pytest.raises(ValueError, match=r"stages is .*, but must be some of bicubic, meta, teacher, student"):
            train(toy, tmp_path, stages=stages, progress=False)  # type: ignore[arg-type]


def test_losses_that_are_not_finite_stop_the_run_and_spoil_nothing(
    toy: TrainConfig, tmp_path: Path, finished: Path, changed: Changed
) -> None:
    config = changed(toy, train={"max_nonfinite": 1, "checkpoint_every": 1})
    with pytest.MonkeyPatch.context() as patch:
        meddle(patch, "bicubic", 2, poison)
        meddle(patch, "bicubic", 3, poison)
        with pytest.raises(FloatingPointError) as raised:
            train(config, tmp_path, stages=["bicubic"], progress=False)
    # The message names no checkpoint, because there may be newer ones than the last good step, and does not advise to
    # resume with a changed option, because the recipe forbids it.
    assert str(raised.value) == (
        "stage 'bicubic' stopped: loss is nan in step 4. Such steps are skipped and change no weight, but 2 in a row "
        "are more than train.max_nonfinite=1: try a lower bicubic.lr or set train.gradient_clip, in another run "
        "directory or without resuming (--no-resume)"
    )
    assert checkpoints(tmp_path / "bicubic") == ["step-00000002", "step-00000003"]
    for step in (2, 3):
        saved = load_file(tmp_path / "bicubic" / "checkpoints" / f"step-0000000{step}" / "network.safetensors")
        kept = load_file(finished / "bicubic" / "checkpoints" / "step-00000002" / "network.safetensors")
        torch.testing.assert_close(saved, kept, rtol=0, atol=0)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("reset_mln", [True, False])
def test_a_skipped_step_moves_nothing_and_is_counted(
    name: StageName, reset_mln: bool, alone: Callable[[StageName], TrainConfig], tmp_path: Path, changed: Changed
) -> None:
    options = {"log_every": 1, "checkpoint_every": 1, "keep_checkpoints": 9, "ema_decay": 0.5}
    config = changed(alone(name), train=options, adaptation={"reset_mln": reset_mln})
    with pytest.MonkeyPatch.context() as patch:
        meddle(patch, name, 2, poison)
        folder = train(config, tmp_path, stages=[name], progress=False)[name].parent
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "skipped" in record] == [3]
    assert [record["skipped_steps"] for record in records if "loss" in record][:3] == [0, 0, 1]
    before, after = (folder / "checkpoints" / f"step-0000000{step}" for step in (2, 3))
    networks = [load_file(path / "network.safetensors") for path in (before, after)]
    torch.testing.assert_close(*networks, rtol=0, atol=0)
    states = [torch.load(path / "state.pt", weights_only=True) for path in (before, after)]
    for key in ("optimizer", "average", "carried", "scaler"):
        torch.testing.assert_close(*(state[key] for state in states), rtol=0, atol=0)
    assert [state["skipped_in_row"] for state in states] == [0, 1]


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    yield
    signal.signal(signal.SIGINT, outside)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_the_second_ctrl_c_interrupts_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        signal.raise_signal(signal.SIGTERM)  # as a launcher does to its workers after a Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
