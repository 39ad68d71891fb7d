from pathlib import Path

import pytest
import torch

from mrda.config import TrainConfig
from mrda.config.load import load_config
from mrda.paper.probes import HELD, blur_probe, idr_probe
from mrda.training import train
from mrda.training.stages import StudentStage, TeacherStage


@pytest.fixture
def config() -> TrainConfig:
    pytest.importorskip("skimage")
    return load_config("toy", ["train.steps=1"])


@pytest.fixture
def inputs(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    weights = train(config, tmp_path, stages=["bicubic", "meta", "teacher"], progress=False)
    return {"mln": weights["meta"], "teacher": weights["teacher"]}


def test_a_den_is_taught_the_blur(config: TrainConfig) -> None:
    found = blur_probe(config, config, steps=60, every=30)
    assert [steps for steps, _ in found] == [30, 60]
    ((_, first),) = blur_probe(config, config, steps=1, every=1)
    assert all(r2 > first for _, r2 in found)


def test_the_teachers_den_is_taught_the_blur_from_adapted_features(
    config: TrainConfig, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = TeacherStage.seen_by_teacher
    monkeypatch.setattr(TeacherStage, "seen_by_teacher", lambda *args: seen.append(original(*args)) or seen[-1])
    found = blur_probe(config, config, steps=1, every=1, mln=inputs["mln"])
    assert [steps for steps, _ in found] == [1]
    assert len(seen) == HELD + 1
    assert {features.shape[1] for features in seen} == {config.networks.mln_feat}


@pytest.mark.parametrize("on", ["self", "other"])
def test_a_probe_adapts_the_mln_as_the_stage_does(
    on: str, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("toy", ["train.steps=1", f"adaptation.on={on}", "adaptation.per=image"])
    adapted = []
    original = StudentStage.seen_by_teacher
    monkeypatch.setattr(
        StudentStage, "seen_by_teacher", lambda self, batch: adapted.append(batch.other_lr) or original(self, batch)
    )
    idr_probe(config, inputs, steps=1)
    assert {other is None for other in adapted} == {on == "self"}


def test_a_den_learns_of_each_dimension_of_an_idr(config: TrainConfig, inputs: dict[str, Path]) -> None:
    first = idr_probe(config, inputs, steps=1)
    assert len(first) == 4 * config.networks.den_width
    assert first == sorted(first)
    later = idr_probe(config, inputs, steps=30)
    assert torch.tensor(later).mean() > torch.tensor(first).mean()
