"""Stage 2, the teacher: RDAN and its DEN learn from the features of an MLN adapted to each batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from mrda.config import TrainConfig
from mrda.networks import MRDATeacher
from mrda.randomness import seeded_weights
from mrda.training.losses import reconstruction
from mrda.training.mln import adapted_features
from mrda.training.stage import Stage, build_degradation, freeze, load_mln, mrda_options


class TeacherStage(Stage):
    """Stage 2 (Algorithm 2); every batch adapts the meta-learned MLN afresh."""

    name = "teacher"
    inputs: ClassVar = {"mln": "meta"}
    depends_on: ClassVar = ("degradation", "networks", "adaptation", "freeze_upscaler")

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        self.mln = freeze(load_mln(config, inputs["mln"]))
        self.frozen = (self.mln,)
        with seeded_weights(config.seed, self.name, "weights"):
            self.network: MRDATeacher = MRDATeacher(mln_feat=config.networks.mln_feat, **mrda_options(config))
        self.config = config
        self.degradation = build_degradation(config)

    def loss(self, step: int, hr: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """L1 between SR and HR."""
        pair = self.degradation(hr, generator)
        features = adapted_features(self.mln, pair.lr, pair.lr_up, hr, config=self.config, stage=self.name)
        return {"loss": reconstruction(self.network(pair.lr, features), hr)}
