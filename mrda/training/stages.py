# SPDX-License-Identifier: Apache-2.0
"""The four stages of the training: each builds its networks and computes its loss; `Trainer` does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrda.config import StageName, TrainConfig
from mrda.core.randomness import seeded_weights
from mrda.degradations import Degraded
from mrda.degradations.classic import degrade
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, Network, adaptation
from mrda.networks.layers import freeze, to_channels_last
from mrda.training.components import (
    Adapter,
    Degradation,
    Mean,
    PooledDegradation,
    build_degradation,
    build_mln,
    build_student,
    build_teacher,
    degradation_keys,
    load_mln,
    load_teacher,
    upscaler_is_frozen,
)
from mrda.training.losses import ImageLoss, Terms, absolute_difference, kl_divergence, reconstruction


class Stage(ABC):
    """One stage of the method: the network it trains, its frozen networks, and its loss.

    Args:
        config: the run's configuration.
        inputs: weight files of earlier stages, by the names in `Stage.inputs`.
    """

    name: ClassVar[StageName]
    network: Network
    """The network that is trained and saved; its frozen parameters do not require gradients."""
    frozen: tuple[nn.Module, ...] = ()
    """Networks that the loss uses and the optimizer never changes."""
    tasks: int = 1
    """Losses per micro-batch; each is back-propagated before the next is computed."""
    hr_per_task: bool = False
    """True if every task has HR patches of its own."""
    loss_weight: float = 1.0
    """Factor of each task's loss."""
    degradation: Degradation | None = None
    """Makes LR from HR; None if the degradation is deterministic."""
    adapter: Adapter | None = None
    """The MLN that is adapted to every batch, in the stages that use one."""
    image_loss: ImageLoss | None = None
    """The loss on SR, in the stages whose network makes the final image; it may bring a discriminator."""
    sync: Mean | None = None
    """Averages inner gradients over processes (`train.adapt_sync`); set by the trainer."""

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        self.config = config

    @classmethod
    @abstractmethod
    def build(cls, config: TrainConfig) -> Network:
        """Build the stage's network, untrained."""

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """Names of the input weights (`init_NAME` in the stage's section), and the stages that make them."""
        return {}

    @classmethod
    @abstractmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """Config keys that change the result, besides the stage's own section and the common ones."""

    @classmethod
    def hr_size(cls, config: TrainConfig) -> int:
        """Side in HR pixels of the patches that `degrade` takes."""
        return config.hr_size

    def degrade(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """Degrade a batch of HR patches (B, 3, H, W) in [0, 1]; all randomness comes from ``generator``."""
        assert self.degradation is not None
        return self.degradation(hr, generator)

    @abstractmethod
    def loss(self, step: int, batch: Degraded) -> Terms:
        """Compute the loss of one task on a micro-batch; deterministic.

        Args:
            step: number of the step, from 0.
            batch: LR, HR and what the degradation made on the way.

        Returns:
            Scalars by name: ``"loss"``, which is minimised, and its parts, which are logged.
        """

    def graph_key(self, step: int) -> Hashable:
        """Hashable key; steps with equal keys run the same computation."""
        return None if self.image_loss is None else self.image_loss.is_visual(step)

    @property
    def capturable(self) -> bool:
        """True if `loss` has no side effects, so that a CUDA graph can capture it."""
        return self.sync is None and (self.adapter is None or self.adapter.options.reset_mln)

    def trainable(self) -> list[nn.Parameter]:
        """Parameters of the network that the optimizer moves."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @property
    def discriminator(self) -> nn.Module | None:
        """The discriminator, which is trained beside the network; None without one."""
        return None if self.image_loss is None else self.image_loss.discriminator

    def to(self, device: torch.device, *, channels_last: bool = True) -> None:
        """Move all networks to ``device``."""
        networks = () if self.image_loss is None else self.image_loss.networks()
        for network in (self.network, *self.frozen, *networks):
            network.to(device)
            if channels_last:
                to_channels_last(network)

    def compile(self) -> None:
        """Compile the parts of the trained network by torch.compile."""
        for part in self.network.children():
            part.compile()

    def after_step(self, mean: Mean) -> None:
        """Update what moves without the optimizer; ``mean`` averages tensors over processes."""
        if self.adapter is not None:
            self.adapter.after_step(mean)
        if self.image_loss is not None:
            self.image_loss.after_step()

    def after_skipped_step(self) -> None:
        """Called when a step is skipped, instead of `after_step`."""
        if self.adapter is not None:
            self.adapter.after_skipped_step()

    def extra_state(self) -> dict[str, Any]:
        """State that goes from step to step besides the network and the optimizer."""
        return {
            "mln": {} if self.adapter is None else self.adapter.state_dict(),
            "discriminator": {} if self.discriminator is None else self.discriminator.state_dict(),
            "pool": self.degradation.state_dict() if isinstance(self.degradation, PooledDegradation) else {},
        }

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore `extra_state`."""
        if self.adapter is not None:
            self.adapter.load_state_dict(state["mln"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
        if isinstance(self.degradation, PooledDegradation):
            self.degradation.load_state_dict(state["pool"])


class BicubicStage(Stage):
    """Stage 1a: L1 training of the MLN on bicubic pairs, or (`bicubic.blur`) on the training degradations."""

    name = "bicubic"

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        super().__init__(config, inputs)
        with seeded_weights(config.seed, self.name, "weights"):
            self.network: MLN = self.build(config)
        self.degradation = build_degradation(config) if config.bicubic.blur else None

    @classmethod
    def build(cls, config: TrainConfig) -> MLN:
        """See `Stage`."""
        return build_mln(config)

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        plain = ("degradation.border", "degradation.lr_up_from")
        degradation = degradation_keys(config) if config.bicubic.blur else plain
        return (*degradation, "networks.mln_feat", "networks.mln_body", "networks.mln_init")

    @classmethod
    def hr_size(cls, config: TrainConfig) -> int:
        """The size of a patch itself, if no patch is cut out of a larger degraded crop."""
        return config.hr_size if config.bicubic.blur else config.scale * config.data.patch_size

    def degrade(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """Downsample by bicubic interpolation, which needs no random numbers, or degrade as in later stages."""
        if self.degradation is not None:
            return super().degrade(hr, generator)
        options = self.config.degradation
        return degrade(hr, None, self.config.scale, border=options.border, lr_up_from=options.lr_up_from)

    def loss(self, step: int, batch: Degraded) -> Terms:
        """L1 between SR and HR."""
        return {"loss": reconstruction(self.network(batch.lr, batch.lr_up), batch.hr)}

    def compile(self) -> None:
        """Compile the MLN as a whole."""
        self.network.compile()


class MetaStage(Stage):
    """Stage 1b: meta-learning over degradations (Algorithm 1), with first or second order gradients.

    A step has m tasks. Each draws a degradation, adapts the MLN to one half of the batch and computes the loss of the
    adapted MLN on the other half; its gradient, averaged over the tasks, moves the MLN itself.
    """

    name = "meta"
    degradation: Degradation

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        super().__init__(config, inputs)
        self.network: MLN = load_mln(config, inputs["mln"])
        self.section = config.meta
        self.tasks = config.meta.tasks
        self.hr_per_task = not config.meta.same_hr_across_tasks
        self.loss_weight = 1.0 if config.meta.outer_aggregate == "sum" else 1 / config.meta.tasks
        self.degradation = build_degradation(config)
        self.freeze_upscaler = upscaler_is_frozen(config, self.name)
        self.network.requires_grad_(False)
        for parameter in self.network.adaptable_parameters(self.freeze_upscaler).values():
            parameter.requires_grad_()

    @cached_property
    def mln_to_adapt(self) -> MLN:
        """The MLN as it is adapted; made by the first step, when its weights are loaded and on their device."""
        return self.network.to_adapt(self.freeze_upscaler)

    @classmethod
    def build(cls, config: TrainConfig) -> MLN:
        """See `Stage`."""
        return build_mln(config)

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """The pretrained MLN."""
        return {"mln": "bicubic"}

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        return *degradation_keys(config), "freeze_upscaler", "networks.mln_feat", "networks.mln_body"

    def loss(self, step: int, batch: Degraded) -> Terms:
        """L1 on the second half of the batch of the MLN that is adapted to the first half: one task."""
        lr, lr_test = batch.lr.chunk(2)
        lr_up, lr_up_test = batch.lr_up.chunk(2)
        hr, hr_test = batch.hr.chunk(2)
        second_order = self.section.maml_order == 2
        weights = adaptation.adapt(
            self.mln_to_adapt,
            lr,
            lr_up,
            hr,
            inner_lr=self.section.inner_lr,
            steps=self.section.inner_steps,
            freeze_upscaler=self.freeze_upscaler,
            second_order=second_order,
            sync=self.sync,
        )
        if not second_order:
            # First order: the adapted weights count as theta + constant. Adding theta - theta.detach() = 0 leaves
            # their values as they are, to the bit, and passes their gradient on to theta.
            theta = self.network.adaptable_parameters(self.freeze_upscaler)
            weights = {name: value + (theta[name] - theta[name].detach()) for name, value in weights.items()}
        return {"loss": reconstruction(adaptation.restore(self.mln_to_adapt, weights, lr_test, lr_up_test), hr_test)}

    def compile(self) -> None:
        """Compile nothing: the MLN runs with adapted weights, for which torch.compile would recompile it every time."""


class TeacherStage(Stage):
    """Stage 2 (Algorithm 2): RDAN and its DEN learn from the features of an MLN that is adapted to each batch.

    With `teacher.den_input` the DEN sees LR or the blur kernel instead of these features: rows T1 and T3 of Table V.
    """

    name = "teacher"
    image_loss: ImageLoss

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        super().__init__(config, inputs)
        if config.teacher.den_input == "features":
            mln = freeze(load_mln(config, inputs["mln"]))
            self.frozen = (mln,)
            self.adapter = Adapter(mln, config.adaptation, freeze_upscaler=upscaler_is_frozen(config, self.name))
        with seeded_weights(config.seed, self.name, "weights"):
            self.network = self.build(config)
        self.degradation = build_degradation(config)
        self.image_loss = ImageLoss(config, self.name)

    @classmethod
    def build(cls, config: TrainConfig) -> MRDATeacher | MRDAStudent | MRDAOracle:
        """See `Stage`."""
        return build_teacher(config)

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """The meta-learned MLN, if its features are used."""
        return {"mln": "meta"} if config.teacher.den_input == "features" else {}

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        return _mrda_keys(cls.name, config)

    def loss(self, step: int, batch: Degraded) -> Terms:
        """The image loss of SR: L1, from `visual_from` on the visual loss."""
        if isinstance(self.network, MRDAStudent):
            sr = self.network(batch.lr)
        elif isinstance(self.network, MRDAOracle):
            assert batch.kernel is not None
            sr = self.network(batch.lr, batch.kernel)
        else:
            assert self.adapter is not None
            sr = self.network(batch.lr, self.adapter.features(batch.lr, batch.lr_up, batch.hr, self.sync))
        return self.image_loss(step, sr, batch)


class StudentStage(Stage):
    """Stage 3: a DEN that sees the LR image alone learns the teacher's IDR; RDAN starts as the teacher's.

    During the first `encoder_steps` the loss is the distillation alone, so that only the DEN receives gradients (Adam
    leaves parameters without gradients as they are); then all of the student learns from all losses.
    """

    name = "student"
    image_loss: ImageLoss

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        super().__init__(config, inputs)
        self.mln = freeze(load_mln(config, inputs["mln"]))
        self.teacher = freeze(load_teacher(config, inputs["teacher"]))
        self.frozen = (self.mln, self.teacher)
        frozen_upscaler = upscaler_is_frozen(config, self.name)
        self.adapter: Adapter = Adapter(self.mln, config.adaptation, freeze_upscaler=frozen_upscaler)
        with seeded_weights(config.seed, self.name, "weights"):
            self.network: MRDAStudent = self.build(config)
        self.network.rdan.load_state_dict(self.teacher.rdan.state_dict())
        self.degradation = build_degradation(config)
        self.image_loss = ImageLoss(config, self.name)

    @classmethod
    def build(cls, config: TrainConfig) -> MRDAStudent:
        """See `Stage`."""
        return build_student(config)

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """The meta-learned MLN and the teacher."""
        return {"mln": "meta", "teacher": "teacher"}

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        return _mrda_keys(cls.name, config)

    def graph_key(self, step: int) -> Hashable:
        """See `Stage`; the encoder-only phase is a computation of its own."""
        return step < self.config.student.encoder_steps, super().graph_key(step)

    def loss(self, step: int, batch: Degraded) -> Terms:
        """Distillation of the raw IDR, and after the encoder-only phase the image loss of SR too (Eq. 7)."""
        section = self.config.student
        with torch.no_grad():
            features = self.adapter.features(batch.lr, batch.lr_up, batch.hr, self.sync)
            target = self.teacher.degradation(features).float()
        degradation = self.network.degradation(batch.lr).float()
        kl = kl_divergence(degradation, target, temperature=section.kl_temperature, reduction=section.kl_reduction)
        absolute = absolute_difference(degradation, target)
        distillation = section.lambda_kl * kl + section.lambda_abs * absolute
        terms = {"kl": kl, "abs": absolute}
        if step < section.encoder_steps:
            return {"loss": distillation, **terms}
        image = self.image_loss(step, self.network(batch.lr, degradation), batch)
        return {**image, **terms, "loss": image["loss"] + distillation}


STAGES: Mapping[StageName, type[Stage]] = {
    stage.name: stage for stage in (BicubicStage, MetaStage, TeacherStage, StudentStage)
}
"""The stages by name, in the order they are trained in."""


def _mrda_keys(stage: StageName, config: TrainConfig) -> tuple[str, ...]:
    """Config keys that teacher and student depend on."""
    visual = () if config.visual_step(stage) is None else ("visual",)
    return *degradation_keys(config), *visual, "networks", "adaptation", "freeze_upscaler"
