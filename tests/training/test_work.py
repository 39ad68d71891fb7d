import pytest

from mrda.config import StageName
from mrda.config.load import load_config
from mrda.training import STAGES
from mrda.training.report import Bars
from mrda.training.work import work

CONFIG = load_config("toy", ["student.steps=10", "student.encoder_steps=4"])


def test_encoder_only_steps_cost_less() -> None:
    costs = [work(CONFIG, "student", step + 1) - work(CONFIG, "student", step) for step in range(10)]
    assert len(set(costs[:4])) == len(set(costs[4:])) == 1
    assert 0 < costs[0] < costs[9]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("start", [0, 3])
def test_the_bar_of_the_run_ends_at_its_total(name: StageName, start: int) -> None:
    section = CONFIG.stage(name)
    total = work(CONFIG, name, section.steps)
    bars = Bars(False, total)
    advance = bars.stage(name, section.steps, start, lambda steps: work(CONFIG, name, steps))
    for _ in range(start, section.steps):
        advance("")
    (whole, job) = bars.progress.tasks
    # The steps' costs are integers in float64.
    assert (whole.completed, job.completed) == (total, section.steps)


def test_steps_with_the_visual_loss_cost_more() -> None:
    config = load_config("toy", ["student.steps=10", "student.encoder_steps=4", "student.visual_from=7"])
    costs = [work(config, "student", step + 1) - work(config, "student", step) for step in range(10)]
    assert costs[:7] == [work(CONFIG, "student", step + 1) - work(CONFIG, "student", step) for step in range(7)]
    assert costs[7] == costs[9] > costs[6]
