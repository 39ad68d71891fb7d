import re

import pytest
from commands import one_sentence, refused, run

from mrda.config.load import configs, load_config


def test_train_runs_the_chosen_stages(tmp_path):
    pytest.importorskip("skimage")
    result = run("train", "--config", "toy", "--run-dir", tmp_path / "run", "--stage", "bicubic", "--set", "seed=5")
    assert result.exit_code == 0, result.stderr
    assert f"bicubic: {tmp_path / 'run' / 'bicubic' / 'weights.safetensors'}" in result.stdout
    assert not (tmp_path / "run" / "meta").exists()
    assert "seed: 5" in (tmp_path / "run" / "config.yaml").read_text()


def test_without_a_terminal_train_logs_a_line_for_each_record(tmp_path, photo):
    sources = f"data.sources=['{photo}']"
    arguments = ("train", "--config", "toy", "--set", sources, "--run-dir", tmp_path / "run", "--stage", "bicubic")
    first = run(*arguments)
    lines = [line.split("  ")[:2] for line in first.stderr.splitlines() if line.startswith("mrda: ")]
    assert [step for step, _ in lines] == ["mrda: bicubic 2/4", "mrda: bicubic 4/4"]
    assert all(loss.startswith("loss 0.") for _, loss in lines)
    assert "  left 0:00:00" in first.stderr
    assert "mrda: " not in run(*arguments).stderr


def test_the_validation_stands_on_the_console_and_the_next_command_at_the_end(tmp_path, photo):
    run_dir, changes = tmp_path / "run", [f"{section}.sources=['{photo}']" for section in ("data", "validation")]
    given = [word for change in (*changes, "validation.every=2") for word in ("--set", change)]
    result = run("train", "--config", "toy", *given, "--run-dir", run_dir, "--stage", "bicubic")
    assert result.exit_code == 0, result.stderr
    found = re.findall(r"bicubic (\d)/4  validation: PSNR-Y (\d+\.\d\d) dB, bicubic (\d+\.\d\d) dB, ", result.stderr)
    assert [step for step, _, _ in found] == ["2", "4"]
    best = run_dir / "bicubic" / "best.safetensors"
    step, psnr, beside = max(found, key=lambda each: float(each[1]))
    line = f"bicubic, best of the validation: PSNR-Y {psnr} dB beside bicubic's {beside}, at step {step}: {best}"
    assert line in result.stdout.splitlines()
    assert result.stderr.splitlines()[-1] == f"next: mrda evaluate -w {best} --data DIR"


def test_train_goes_on_where_it_was_unless_told_otherwise(tmp_path):
    pytest.importorskip("skimage")
    arguments = ("train", "--config", "toy", "--run-dir", tmp_path / "run", "--stage", "bicubic")
    stamps = []
    for extra in ((), (), ("--no-resume",)):
        assert run(*arguments, *extra).exit_code == 0
        stamps.append((tmp_path / "run" / "bicubic" / "weights.safetensors").stat().st_mtime_ns)
    assert stamps[0] == stamps[1] < stamps[2]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--config", "nothing"), "nothing"),
        (("--config", "toy", "--set", "student.step=3"), "student.steps"),
        (("--config", "toy", "--set", "seed"), "seed"),
        (("--config", "toy", "--stage", "finish"), "finish"),
        (("--config", "toy", "--stage", "student"), "weights"),
        (("--config", "x" * 300), "is neither a file nor one of the package's"),
        ((), "--config"),
        (("--config", "toy", "--stage", "finish"), "--stage is ['finish'], but must be some of"),
        (("--config", "toy", "--stage", "meta", "--set", "train.stages=[meta]"), "--stage replaces train.stages"),
        (("--config", "toy", "--preset", "published"), "--preset is 'published', but must be"),
        (("--config", "toy", "--set", "data.sources=HR"), "must be a list, as in --set 'data.sources=[HR]'"),
        (("--config", "toy", "--set", "student=3"), "'student' must be a section of options"),
        (("--config", "dmo"), "did you mean 'demo'?"),
        (("--config", "toy", "--preset", "published"), "recommended, paper, official"),
        (("--config", "toy", "--dry-run", "--stage", "finish"), "finish"),
    ],
)
def test_train_refuses_wrong_usage(tmp_path, arguments, word):
    out = tmp_path / "run"
    refused(run("train", "--run-dir", out, *arguments), out, word)


@pytest.mark.parametrize("section", ["data", "validation"])
def test_train_names_a_photo_that_is_not_there(tmp_path, photo, section):
    run_dir = tmp_path / "run"
    sources = (f"data.sources=['{photo}']", f"{section}.sources=[nowhere.png]")
    result = run("train", "--config", "toy", "--set", sources[0], "--set", sources[1], "--run-dir", run_dir)
    assert result.exit_code == 2
    assert result.stderr == "mrda: cannot read nowhere.png: there is no such file\n"
    assert not run_dir.exists()


def test_train_without_photos_says_how_to_name_some(tmp_path):
    run_dir = tmp_path / "runs" / "new"
    arguments = ("train", "--config", "toy", "--set", "data.sources=[]", "--stage", "bicubic", "--run-dir", run_dir)
    refused(run(*arguments), run_dir.parent, "name a folder of photos, as in --set 'data.sources=[HR]'")
    run_dir.parent.mkdir()
    (run_dir.parent / "another").touch()
    refused(run(*arguments), run_dir, "name a folder of photos")
    run_dir.mkdir()
    assert run(*arguments).exit_code == 2
    assert run_dir.is_dir()  # it was there before


def test_train_refuses_a_file_as_run_directory(tmp_path, photo):
    result = run("train", "--config", "toy", "--run-dir", photo, "--stage", "bicubic")
    assert result.exit_code == 2
    assert one_sentence(result.stderr), result.stderr
    assert str(photo) in result.stderr


def test_train_hides_no_fault_of_the_training(tmp_path, monkeypatch):
    pytest.importorskip("skimage")

    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr("mrda.training.trainer.Trainer.train", broken)
    result = run("train", "--config", "toy", "--run-dir", tmp_path / "run", "--stage", "bicubic")
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1


def test_train_lists_the_configurations():
    result = run("train", "--list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} == set(configs())
    (demo,) = (line.split(maxsplit=1)[1] for line in lines if line.startswith("demo "))
    assert demo.startswith("The whole method in two minutes")
    assert all(len(line.split()) > 4 for line in lines)


def test_a_dry_run_says_what_would_be_trained_and_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("train", "--config", "ablation/t1", "--preset", "paper", "--set", "train.steps=100", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "teacher" in result.stderr
    assert "5,838,713" in result.stderr  # T1 has the student's networks
    assert re.search(r"on this machine the training takes about \d", result.stderr)
    assert "student" not in result.stderr
    (tmp_path / "resolved.yaml").write_text(result.stdout)
    assert "Training plan" in result.output.rpartition("visual:")[2]  # the table comes last
    assert load_config("resolved.yaml") == load_config("ablation/t1", ["train.steps=100"], preset="paper")
    assert [path.name for path in tmp_path.iterdir()] == ["resolved.yaml"]


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (("--config", "toy"), "toy"),
        (("--config", "toy", "--preset", "official"), "toy-official"),
        (("--config", "mine/small.yaml"), "small"),
    ],
)
def test_a_run_is_named_after_its_configuration(tmp_path, monkeypatch, arguments, folder):
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "small.yaml").write_text("extends: toy")
    result = run("train", *arguments, "--stage", "bicubic", "--set", "train.steps=1")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "runs" / folder / "bicubic" / "weights.safetensors").is_file()
    assert "Training plan" in result.stderr
