import pytest
from commands import one_sentence, run


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--data", "skimage:astronaut"), "skimage:astronaut is trained on"),
        (("--config", "nothing"), "nothing"),
        (("--set", "student.step=3"), "student.steps"),
        (("--preset", "published"), "recommended, paper, official"),
    ],
)
def test_ablate_refuses_wrong_usage(tmp_path, photo, arguments, word):
    given = ("--config", "toy", "--data", photo, *arguments)
    result = run("ablate", "--budget", 1, "--run-dir", tmp_path / "run", *given)
    assert result.exit_code == 2
    assert one_sentence(result.stderr), result.stderr
    assert word in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ablate_prints_and_writes_its_report(tmp_path, photo, monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run_dir = tmp_path / "run"
    result = run("ablate", "--config", "toy", "--budget", 1, "--run-dir", run_dir, "--data", photo)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (run_dir / "ablation.md").read_text()
    assert "| S3 > S1 | " in result.stdout
    assert "ablation: s6" in result.stderr
