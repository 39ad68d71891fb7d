import pytest
from commands import one_sentence, run


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--data", "skimage:astronaut"), "skimage:astronaut is a training photo"),
        (("--config", "nothing"), "nothing"),
        (("--set", "student.step=3"), "student.steps"),
        (("--preset", "published"), "recommended, paper, official"),
        (("--set", "teacher.den_input=lr"), "stage 'student' requires a teacher"),
        (("--set", "degradation.kernel=none"), "requires blur kernels"),
        (("--set", "degradation.kernel_size=15"), "degradation.kernel_size must be 21"),
        (("--set", "student.lambda_kl=0"), "s1 and s3"),
    ],
)
def test_ablate_refuses_wrong_usage(tmp_path, photo, arguments, word):
    given = ("--config", "toy", "--data", photo, *arguments)
    result = run("ablate", "--budget", 1, "--run-dir", tmp_path / "run", *given)
    assert result.exit_code == 2
    assert one_sentence(result.stderr), result.stderr
    assert word in result.stderr
    assert not (tmp_path / "run").exists()


def test_ablate_refuses_what_the_training_refuses(tmp_path, photo):
    given = ("--config", "toy", "--data", photo, "--set", "data.sources=[nowhere.png]")
    result = run("ablate", "--budget", 1, "--run-dir", tmp_path / "run", *given)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "mrda: cannot read nowhere.png: there is no such file"
    assert "Traceback" not in result.stderr


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
