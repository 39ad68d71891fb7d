# SPDX-License-Identifier: Apache-2.0
"""The rows of Tables V and VI for a given base configuration and budget: their configurations and training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from mrda.config import StageName, TrainConfig
from mrda.config.load import load_config
from mrda.training import STAGES, train
from mrda.training.checkpoints import recipe_of
from mrda.training.plan import plan_stage

TABLE_5 = ("t1", "t2", "t3", "s1", "s2", "s3", "s4", "s5", "s6")
TABLE_6 = {"free_upscaler": False, "fixed_upscaler": True}
"""Rows of Table VI, True with a fixed upscaler."""
ROWS = (*TABLE_5, *TABLE_6)
STUDENTS = ("s1", "s2", "s3", "s4", "s5")
"""The rows that end with the student stage; S6 is called a student, but has no teacher."""
FIRST = "t2"
"""The row whose MLN is in the folder `mln`."""
EXTENDED = "classic-iso-x4"
"""The configuration that the rows extend, which the study replaces by its base."""


class Study:
    """The rows' configurations, and their training in one folder; interrupted runs resume.

    A stage whose weights depend on the same options in two rows is trained once. A row's own settings take precedence
    over `overrides`, these over `base`, and this over `preset`.

    Args:
        base: name or path of the configuration that the rows change.
        budget: optimizer steps of every stage, but in S6.
        run_dir: folder of the study.
        overrides: overrides of the base, as for `mrda.config.load.load_config`.
        preset: as for `mrda.config.load.load_config`.
        progress: show progress on the terminal.

    Raises:
        ValueError: an override sets steps or stages, a row's configuration or network is refused, two rows would be the
            same, or a stage is configured to start from existing weights.
    """

    def __init__(
        self, base: str | Path, budget: int, run_dir: Path, overrides: Sequence[str], preset: str, progress: bool
    ) -> None:
        self.budget, self.run_dir, self.progress = budget, run_dir, progress
        own = {"train.steps": "the budget", "train.stages": "each row"} | {
            f"{name}.steps": "the budget" for name in STAGES
        }
        for change in overrides:
            option = change.partition("=")[0].strip()
            if option in own:
                raise ValueError(f"{option} of a study is set by {own[option]}: leave it out")
        self.configs = {row: _row_config(row, budget, base, overrides, preset) for row in ROWS if row != "s6"}
        self.configs["s6"] = _row_config("s6", self.steps("s6"), base, overrides, preset)
        for row, config in self.configs.items():
            config.check_stages(config.train.stages)
            plan_stage(config, _last_stage(row), done=0, micro_batches=1)  # builds the networks, or refuses
        for one, other in combinations(STUDENTS, 2):
            if self.configs[one] == self.configs[other]:
                raise ValueError(
                    f"rows {one} and {other} of the study would be the same: change the options of the base"
                )
        for name in STAGES:
            for option, value in self.configs["s3"].stage(name):
                if option.startswith("init_") and value is not None:
                    raise ValueError(f"{name}.{option} is {value}, but a study trains every stage itself")
        self._trained: dict[str, Path] = {}

    def steps(self, row: str) -> int:
        """Optimizer steps of a row's RDAN."""
        if row in (*STUDENTS, "s6"):
            return 2 * self.budget - self.configs["s3" if row == "s6" else row].student.encoder_steps
        return self.budget

    def weights(self, row: str, stage: StageName) -> Path:
        """Train a row's stage, and those it starts from, unless equal ones exist already; return its weights."""
        config = self.configs[row]
        inputs = {name: self.weights(row, maker) for name, maker in STAGES[stage].inputs(config).items()}
        recipe = json.dumps(recipe_of(STAGES[stage], config, inputs))
        if recipe not in self._trained:
            given = {f"init_{name}": path for name, path in inputs.items()}
            changed = config.model_copy(update={stage: config.stage(stage).model_copy(update=given)})
            shared = row == FIRST and stage in ("bicubic", "meta")
            folder = self.run_dir / ("mln" if shared else row)
            self._trained[recipe] = train(changed, folder, stages=[stage], progress=self.progress)[stage]
        return self._trained[recipe]

    def final(self, row: str) -> Path:
        """Weights that are measured for a row."""
        return self.weights(row, _last_stage(row))


def _last_stage(row: str) -> StageName:
    return "student" if row in STUDENTS else "teacher"


def _row_config(row: str, steps: int, base: str | Path, overrides: Sequence[str], preset: str) -> TrainConfig:
    """The configuration of a row: preset, base, the user's changes and, above all these, the row's own."""
    stages = list(STAGES)[: list(STAGES).index(_last_stage(row)) + 1]
    return load_config(
        f"ablation/{row}",
        [f"train.steps={steps}", f"train.stages=[{', '.join(stages)}]"],
        preset=preset,
        instead={EXTENDED: base},
        instead_overrides=overrides,
    )
