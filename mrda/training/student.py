"""Stage 3, the student: a DEN that sees the LR image alone learns the teacher's IDR, and RDAN follows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mrda.config import StageName, TrainConfig
from mrda.core.randomness import seeded_weights
from mrda.degradations import Degraded
from mrda.evaluation.methods import student_method
from mrda.evaluation.samples import Method
from mrda.networks import MRDAStudent, Network
from mrda.networks.layers import freeze
from mrda.training.adapter import Adapter
from mrda.training.losses import absolute_difference, kl_divergence
from mrda.training.stage import (
    Stage,
    build_degradation,
    degradation_keys,
    load_mln,
    load_teacher,
    mrda_options,
    upscaler_is_frozen,
    with_den_init,
)
from mrda.training.visual import ImageLoss


class StudentStage(Stage):
    """Stage 3; RDAN starts as the teacher's, the DEN from scratch.

    During the first `encoder_steps` the loss is the distillation alone, so that only the DEN receives
    gradients (and Adam leaves parameters without gradients as they are); then all of the student learns
    from all losses.
    """

    name = "student"
    image_loss: ImageLoss

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        self.mln = freeze(load_mln(config, inputs["mln"]))
        self.teacher = freeze(load_teacher(config, inputs["teacher"]))
        self.frozen = (self.mln, self.teacher)
        frozen_upscaler = upscaler_is_frozen(config, self.name)
        self.adapter: Adapter = Adapter(self.mln, config.adaptation, freeze_upscaler=frozen_upscaler)
        with seeded_weights(config.seed, self.name, "weights"):
            self.network: MRDAStudent = self.build(config)
        self.network.rdan.load_state_dict(self.teacher.rdan.state_dict())
        self.config = config
        self.degradation = build_degradation(config)
        self.image_loss = ImageLoss(config, self.name)

    @classmethod
    def build(cls, config: TrainConfig) -> MRDAStudent:
        """A student."""
        return with_den_init(MRDAStudent(**mrda_options(config)), config)

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """The meta-learned MLN and the teacher."""
        return {"mln": "meta", "teacher": "teacher"}

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        visual = () if config.visual_step(cls.name) is None else ("visual",)
        return *degradation_keys(config), *visual, "networks", "adaptation", "freeze_upscaler"

    def phase(self, step: int) -> Hashable:
        """Whether only the DEN learns yet; then as ever."""
        return step < self.config.student.encoder_steps, super().phase(step)

    def loss(self, step: int, pair: Degraded) -> dict[str, Tensor]:
        """Distillation of the raw IDR, and after the encoder-only phase what the image loss says of SR too (Eq. 7)."""
        section = self.config.student
        with torch.no_grad():
            features = self.adapter.features(pair.lr, pair.lr_up, pair.hr, self.inner_mean)
            target = self.teacher.degradation(features).float()
        degradation = self.network.degradation(pair.lr).float()
        kl = kl_divergence(degradation, target, temperature=section.kl_temperature, reduction=section.kl_reduction)
        absolute = absolute_difference(degradation, target)
        distillation = section.lambda_kl * kl + section.lambda_abs * absolute
        terms = {"kl": kl, "abs": absolute}
        if step < section.encoder_steps:
            return {"loss": distillation, **terms}
        image = self.image_loss(step, self.network(pair.lr, degradation), pair)
        return {**image, **terms, "loss": image["loss"] + distillation}

    def method(self, network: Network) -> Method:
        """The student, from LR alone."""
        assert isinstance(network, MRDAStudent)
        return student_method(network)
