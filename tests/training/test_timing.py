"""The estimated duration of a training."""

import time

import pytest

from mrda.config.load import load_config
from mrda.training.timing import estimated_seconds


def test_stages_count_by_their_cost_and_steps(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))  # each step takes a second
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    alone = ["teacher.den_input=lr", "student.encoder_steps=0", "adaptation.inner_steps=0"]
    config = load_config("toy", [*alone, "teacher.steps=30", "teacher.batch=8", "student.batch=8"])
    one = estimated_seconds(config, ["teacher"])
    assert one == pytest.approx(30 * 8)  # one image takes long enough to tell
    assert estimated_seconds(config, ["teacher", "student"]) > one
    twice = load_config("toy", [*alone, "teacher.steps=60", "teacher.batch=8", "student.batch=8"])
    assert estimated_seconds(twice, ["teacher"]) == pytest.approx(2 * one)
