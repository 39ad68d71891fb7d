import json

import pytest
import torch

from benchmarks import training
from benchmarks.peers import PeerConv
from mrda.config import STAGES
from mrda.config.load import load_config

RECORD = {
    "stage": "student",
    "way": "mrda",
    "batch": 2,
    "patch_size": 12,
    "scale": 2,
    "mixed_precision": "no",
    "ms": 500.0,
    "images_per_second": 4.0,
    "rounds": 4,
    "peak_bytes": 3 * 2**20,
    "processor": "a processor",
    "threads": 2,
    "torch": "2",
    "parts": {"adaptation": 0.5, "the rest": 0.5},
}


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_timed_both_ways(name, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("benchmarks.harness.SHORT_MS", 0.0)  # no turn is short, so that each is one call
    methods = dict(vars(torch.Tensor))
    records = training.measure(load_config("toy"), name, ["released", "mrda"], seconds=0, min_rounds=1)
    assert [(r["stage"], r["way"]) for r in records] == [(name, "released"), (name, "mrda")]
    for r in records:
        assert r["images_per_second"] == pytest.approx(1000 * r["batch"] / r["ms"], rel=1e-12)
        assert r["peak_bytes"] > 0
    parts = records[1]["parts"]
    assert sum(parts.values()) == pytest.approx(1)
    assert {"forward", "backward", "optimizer"} <= set(parts)
    assert ("adaptation" in parts) == (name in ("teacher", "student"))
    assert dict(vars(torch.Tensor)) == methods  # what was timed is as it was
    assert "timed" not in torch.optim.Adam.step.__qualname__


def test_the_released_way_is_the_same_step(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from accelerate import Accelerator

    from mrda.training.processes import Processes

    processes, config = Processes(Accelerator(mixed_precision="no"), None), load_config("toy")
    with TemporaryDirectory() as folder:
        inputs = training.random_weights(config, Path(folder))
        losses = {}
        for way in ("released", "mrda"):
            take, stage = training.step_of(config, "teacher", inputs, way, processes)
            convs = {isinstance(module, PeerConv) for module in stage.network.modules() if hasattr(module, "mask")}
            assert convs == {way == "released"}
            losses[way] = [take() for _ in range(2)]
    assert losses["released"] == pytest.approx(losses["mrda"], rel=1e-4)


def test_the_command_writes_its_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    released = {**RECORD, "way": "released", "ms": 750.0}
    monkeypatch.setattr(training, "measure", lambda *_, **__: [released, RECORD])
    training.main(["--config", "toy", "--stage", "student", "--json", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == [released, RECORD]
    printed = capsys.readouterr().out
    assert "| student | mrda | 500 | 4.0 | 3 | 1.50x | adaptation 50 %, the rest 50 % |" in printed


def test_a_wrong_option_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        training.main(["--set", "student.step=3"])
    assert "student.steps" in capsys.readouterr().err
