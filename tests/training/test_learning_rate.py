import pytest

from mrda.config import StudentConfig, TeacherConfig
from mrda.training.plan import learning_rate


def test_halving_falls_at_the_boundaries() -> None:
    stage = TeacherConfig(steps=100, lr=8.0, halve_every=10)
    assert [learning_rate(stage, step) for step in (0, 9, 10, 19, 20, 99)] == [8, 8, 4, 4, 2, 8 / 512]


def test_cosine_goes_from_lr_to_lr_min() -> None:
    stage = TeacherConfig(steps=100, lr=3.0, lr_law="cosine", lr_min=1.0)
    assert learning_rate(stage, 0) == 3
    assert learning_rate(stage, 50) == pytest.approx(2, rel=1e-15)
    assert learning_rate(stage, 100) == pytest.approx(1, rel=1e-15)


def test_constant_stays() -> None:
    stage = TeacherConfig(steps=100, lr=3.0, lr_law="constant", halve_every=1)
    assert {learning_rate(stage, step) for step in range(100)} == {3.0}


def test_the_student_has_two_phases_each_counted_from_its_start() -> None:
    stage = StudentConfig(steps=100, lr=8.0, halve_every=10, encoder_steps=25, encoder_lr=1.0, encoder_decay_every=10)
    rates = [learning_rate(stage, step) for step in (0, 9, 10, 20, 24, 25, 34, 35)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.01, 8, 8, 4], rel=1e-15)


def test_the_student_without_encoder_phase_starts_jointly() -> None:
    assert learning_rate(StudentConfig(steps=10, lr=8.0, encoder_steps=0), 0) == 8


def test_the_rate_rises_evenly_to_its_law() -> None:
    stage = TeacherConfig(steps=100, lr=8.0, halve_every=50, warmup_steps=3)
    assert [learning_rate(stage, step) for step in (0, 1, 2, 3, 4, 50)] == [2, 4, 6, 8, 8, 4]
