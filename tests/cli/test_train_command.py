from pathlib import Path

import pytest
from commands import one_sentence, refused, run

REPOSITORY = Path(__file__).resolve().parents[2]


def test_train_runs_the_chosen_stages(tmp_path):
    pytest.importorskip("skimage")
    result = run("train", "--config", "toy", "--run-dir", tmp_path / "run", "--stage", "bicubic", "--set", "seed=5")
    assert result.exit_code == 0, result.stderr
    assert f"bicubic: {tmp_path / 'run' / 'bicubic' / 'weights.safetensors'}" in result.stdout
    assert not (tmp_path / "run" / "meta").exists()
    assert "seed: 5" in (tmp_path / "run" / "config.yaml").read_text()


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
        (("--config", "x" * 300), "must be a file or one of"),
    ],
)
def test_train_refuses_wrong_usage(tmp_path, arguments, word):
    out = tmp_path / "run"
    refused(run("train", "--run-dir", out, *arguments), out, word)


def test_train_names_a_photo_that_is_not_there(tmp_path):
    run_dir = tmp_path / "run"
    result = run("train", "--config", "toy", "--set", "data.sources=[nowhere.png]", "--run-dir", run_dir)
    assert result.exit_code == 2
    assert result.stderr == "mrda: cannot read nowhere.png: there is no such file\n"


def test_train_refuses_a_file_as_run_directory(tmp_path, photo):
    result = run("train", "--config", "toy", "--run-dir", photo, "--stage", "bicubic")
    assert result.exit_code == 2
    assert one_sentence(result.stderr), result.stderr
    assert str(photo) in result.stderr


def test_train_hides_no_fault_of_the_training(tmp_path, monkeypatch):
    pytest.importorskip("skimage")

    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr("mrda.training.pipeline.run_stage", broken)
    result = run("train", "--config", "toy", "--run-dir", tmp_path / "run", "--stage", "bicubic")
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1
