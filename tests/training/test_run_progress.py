from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mrda.config import StageName
from mrda.config.load import load_config
from mrda.training import STAGES
from mrda.training.log import RunProgress
from mrda.training.plan import cost

CONFIG = load_config("toy", ["student.steps=10", "student.encoder_steps=4"])


class Counter:
    """A task that counts."""

    def __init__(self, total: float) -> None:
        self.total, self.completed = total, 0.0

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self.completed += amount


class Counters:
    """A `Progress` of tasks that count."""

    def __init__(self) -> None:
        self.tasks: list[Counter] = []

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Counter]:
        self.tasks.append(Counter(total))
        yield self.tasks[-1]


def test_steps_of_the_encoder_alone_and_those_without_a_teacher_cost_less() -> None:
    assert CONFIG.student.distilled_steps == 7
    costs = [cost(CONFIG, "student", step + 1) - cost(CONFIG, "student", step) for step in range(10)]
    assert len(set(costs[:4])) == len(set(costs[4:7])) == len(set(costs[7:])) == 1
    assert 0 < costs[0] < costs[4]
    assert 0 < costs[7] < costs[4]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("start", [0, 3])
def test_the_bar_of_the_run_ends_at_its_total(name: StageName, start: int) -> None:
    section = CONFIG.stage(name)
    total = cost(CONFIG, name, section.steps)
    counters = Counters()
    with RunProgress(counters, CONFIG, [name], lines=False) as run, run.stage(name, start) as stage:
        for _ in range(start, section.steps):
            stage.advance("")
    (whole, job) = counters.tasks
    # The steps' costs are integers in float64.
    assert (whole.completed, job.completed) == (whole.total, job.total) == (total, section.steps)


def test_steps_with_the_visual_loss_cost_more() -> None:
    config = load_config("toy", ["student.steps=10", "student.encoder_steps=4", "student.visual_from=7"])
    costs = [cost(config, "student", step + 1) - cost(config, "student", step) for step in range(10)]
    assert costs[:7] == [cost(CONFIG, "student", step + 1) - cost(CONFIG, "student", step) for step in range(7)]
    assert costs[7] == costs[9] > costs[6]
