import json

import pytest

from benchmarks import training
from mrda.config import STAGES
from mrda.configs import load_config


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_timed_on_both_backends(name, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("benchmarks.timing.SHORT_MS", 0.0)  # no turn is short, so that each is one call
    seen = []
    real = training.step_of

    def spy(config, stage, inputs, backend, processes):
        run = real(config, stage, inputs, backend, processes)
        return lambda: seen.append(backend) or run()

    monkeypatch.setattr(training, "step_of", spy)
    result = training.measure(load_config("toy"), name, seconds=0, min_rounds=1)
    assert result["stage"] == name
    assert result["speedup"] == pytest.approx(
        result["fused_images_per_second"] / result["reference_images_per_second"], rel=1e-12
    )
    assert seen.count(None) == seen.count("reference") >= 1


def test_the_command_writes_its_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(training, "SECONDS", 0.0)
    monkeypatch.setattr(training, "measure", lambda config, name: {**RESULT, "stage": name})
    training.main(["--config", "toy", "--stage", "student", "--json", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == [{**RESULT, "stage": "student"}]
    assert "student: 3.00 images/s, on the reference 2.00: 1.50 times as fast" in capsys.readouterr().out


RESULT = {
    "batch": 2,
    "patch_size": 12,
    "scale": 2,
    "fused_images_per_second": 3.0,
    "reference_images_per_second": 2.0,
    "speedup": 1.5,
    "rounds": 4,
}


def test_a_wrong_option_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        training.main(["--set", "student.step=3"])
    assert "student.steps" in capsys.readouterr().err
