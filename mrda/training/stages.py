# SPDX-License-Identifier: Apache-2.0
"""The four stages of the training: each builds its networks and computes its loss; `Trainer` does the rest."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrda.config import StageName, TrainConfig
from mrda.core.randomness import seeded_weights
from mrda.data.pairs import unpack
from mrda.degradations import ClassicDegradation, Degraded
from mrda.degradations.classic import degrade
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, Network, adaptation, lr_with_hr
from mrda.networks.layers import freeze, to_channels_last
from mrda.training.components import (
    Adapter,
    Degradation,
    Mean,
    PooledDegradation,
    build_degradation,
    build_idr_norm,
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
    one_pair: bool = False
    """True if all patches of a batch come from one of the pairs of `data.pairs`, and so share its degradation."""
    degradation: Degradation | None = None
    """Makes LR from HR; None if the degradation is deterministic."""
    adapter: Adapter | None = None
    """The MLN that is adapted to every batch, in the stages that use one."""
    image_loss: ImageLoss | None = None
    """The loss on SR, in the stages whose network makes the final image; it may bring a discriminator."""
    idr_norm: nn.BatchNorm1d | None = None
    """Normalises the raw IDRs of the network that is trained (`networks.den_norm`)."""
    sync: Mean | None = None
    """Averages inner gradients over processes (`train.adapt_sync`); set by the trainer."""

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        self.config = config
        self.one_pair = config.degradation.per == "batch"

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
        """Degrade a batch of HR patches (B, 3, H, W) in [0, 1]; all randomness comes from ``generator``.

        With `data.pairs` the batch is one of `mrda.data.pairs.PairSampler`, and is taken as it is.
        """
        assert self.degradation is not None
        batch = self.degradation(hr, generator)
        if self.adapter is None or self.config.adapted_on == "self":
            return batch
        assert isinstance(self.degradation, ClassicDegradation)
        return self.degradation.with_others(batch, generator)

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

    def shares_of_rate(self) -> list[tuple[list[nn.Parameter], float]]:
        """The same parameters in groups, each with its factor of the learning rate."""
        return [(self.trainable(), 1.0)]

    @property
    def discriminator(self) -> nn.Module | None:
        """The discriminator, which is trained beside the network; None without one."""
        return None if self.image_loss is None else self.image_loss.discriminator

    def seen_by_teacher(self, batch: Degraded) -> Tensor:
        """Return the input of a teacher's DEN: the MLN's adapted features or LR and HR (B, C, H, W), or blur kernels.

        Kernels are (B, k, k), or (1, k, k) if all images share one.
        """
        if self.adapter is not None:
            return self.adapter.features(batch, self.sync)
        if self.config.teacher.den_input == "kernel":
            assert batch.kernel is not None
            return batch.kernel
        return lr_with_hr(batch.lr, batch.hr)

    def normalized(self, idr: Tensor) -> Tensor:
        """Return the raw IDRs (B, D) of a batch, normalised if `networks.den_norm` says so."""
        return idr if self.idr_norm is None else self.idr_norm(idr.float()).to(idr.dtype)

    def finished(self, network: Network, idr_norm: nn.BatchNorm1d | None) -> Network:
        """Return the network to validate and to save: ``network``, or a copy with ``idr_norm`` in its DEN."""
        if idr_norm is None:
            return network
        assert isinstance(network, MRDATeacher | MRDAStudent)
        network = copy.deepcopy(network)
        network.den = network.den.normalized(idr_norm)
        return network

    def to(self, device: torch.device, *, channels_last: bool = True) -> None:
        """Move all networks to ``device``."""
        if self.idr_norm is not None:
            self.idr_norm.to(device)
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
        if self.idr_norm is not None:
            statistics = dict(self.idr_norm.named_buffers())
            del statistics["num_batches_tracked"]
            for own, value in zip(statistics.values(), mean(list(statistics.values())), strict=True):
                own.copy_(value)
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
            "idr_norm": {} if self.idr_norm is None else self.idr_norm.state_dict(),
            "discriminator": {} if self.discriminator is None else self.discriminator.state_dict(),
            "pool": self.degradation.state_dict() if isinstance(self.degradation, PooledDegradation) else {},
        }

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore `extra_state`."""
        if self.adapter is not None:
            self.adapter.load_state_dict(state["mln"])
        if self.idr_norm is not None:
            self.idr_norm.load_state_dict(state["idr_norm"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
        if isinstance(self.degradation, PooledDegradation):
            self.degradation.load_state_dict(state["pool"])


class BicubicStage(Stage):
    """Stage 1a: L1 training of the MLN on bicubic LR, made of HR alone, or (`bicubic.blur`) on that of later stages."""

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
        if self.config.data.pairs:
            hr = unpack(hr, self.config.scale)[1]
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
        # Tasks on the same patches of a pair would all be the same.
        self.hr_per_task = bool(config.data.pairs) or not config.meta.same_hr_across_tasks
        self.one_pair = True
        self.loss_weight = 1.0 if config.meta.outer_aggregate == "sum" else 1 / config.meta.tasks
        if config.degradation.type == "classic":  # a task is one degradation
            config = config.model_copy(update={"degradation": replace(config.degradation, per="batch")})
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
            clip=self.section.inner_clip,
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

    With `teacher.den_input` the DEN sees LR and HR instead of these features (KDSR), LR alone or the blur kernel (rows
    T1 and T3 of Table V).
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
            self.network: MRDATeacher | MRDAStudent | MRDAOracle = self.build(config)
        if not isinstance(self.network, MRDAOracle):
            self.idr_norm = build_idr_norm(config)
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
        seen = batch.lr if isinstance(self.network, MRDAStudent) else self.seen_by_teacher(batch)
        idr = self.normalized(self.network.degradation(seen)).expand(len(batch.lr), -1)
        return self.image_loss(step, self.network.rdan(batch.lr, idr), batch)


class StudentStage(Stage):
    """Stage 3: a DEN that sees the LR image alone learns the teacher's IDR; RDAN starts as the teacher's.

    During the first `encoder_steps` the loss is the distillation alone, so that only the DEN receives gradients (Adam
    leaves parameters without gradients as they are); then all of the student learns from all losses. The distillation
    fades by `distil_share`; where it has gone, the teacher is not run any more.
    """

    name = "student"
    image_loss: ImageLoss

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        super().__init__(config, inputs)
        self.teacher = freeze(load_teacher(config, inputs["teacher"]))
        self.frozen = (self.teacher,)
        if "mln" in inputs:
            mln = freeze(load_mln(config, inputs["mln"]))
            self.frozen = (mln, self.teacher)
            self.adapter = Adapter(mln, config.adaptation, freeze_upscaler=upscaler_is_frozen(config, self.name))
        with seeded_weights(config.seed, self.name, "weights"):
            self.network: MRDAStudent = self.build(config)
        self.network.rdan.load_state_dict(self.teacher.rdan.state_dict())
        if not isinstance(self.teacher, MRDAOracle):  # an oracle's IDRs are not normalised
            self.idr_norm = build_idr_norm(config)
        self.degradation = build_degradation(config)
        self.image_loss = ImageLoss(config, self.name)

    @classmethod
    def build(cls, config: TrainConfig) -> MRDAStudent:
        """See `Stage`."""
        return build_student(config)

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """The teacher and, if it reads features, the meta-learned MLN."""
        teacher: Mapping[str, StageName] = {"teacher": "teacher"}
        return teacher if config.teacher.den_input in ("lr_hr", "kernel") else {"mln": "meta", **teacher}

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        return _mrda_keys(cls.name, config)

    def shares_of_rate(self) -> list[tuple[list[nn.Parameter], float]]:
        """See `Stage`; the RDAN, which has been trained already, may have a smaller rate."""
        factor = self.config.student.rdan_lr_factor
        if factor == 1:
            return super().shares_of_rate()
        rdan = {id(parameter) for parameter in self.network.rdan.parameters()}
        parts = [[p for p in self.trainable() if (id(p) in rdan) == of_rdan] for of_rdan in (False, True)]
        return [(parts[0], 1.0), (parts[1], factor)]

    def graph_key(self, step: int) -> Hashable:
        """See `Stage`; the encoder-only phase is a computation of its own, and each weight of the distillation."""
        return step < self.config.student.encoder_steps, self.distillation_weight(step), super().graph_key(step)

    def distillation_weight(self, step: int) -> float:
        """Return the factor of `lambda_kl` and `lambda_abs` in a step, by `distil_share`: from 1 to 0.

        It is a multiple of 1/64, because a CUDA graph serves all training steps with the same factor.
        """
        section = self.config.student
        first, end = section.encoder_steps, section.distilled_steps
        if step < first:
            return 1.0
        if section.distil_share is None:
            return 1.0 if end > first else 0.0
        if step >= end:
            return 0.0
        return math.ceil(32 * (1 + math.cos(math.pi * (step - first) / (end - first)))) / 64

    @torch.no_grad()
    def target(self, batch: Degraded) -> Tensor:
        """Return the teacher's raw IDRs (B, D) of a batch, in float32."""
        return self.teacher.degradation(self.seen_by_teacher(batch)).float().expand(len(batch.lr), -1)

    def loss(self, step: int, batch: Degraded) -> Terms:
        """Distillation of the raw IDR, and after the encoder-only phase the image loss of SR too (Eq. 7)."""
        section, weight = self.config.student, self.distillation_weight(step)
        idr = self.normalized(self.network.degradation(batch.lr)).float()
        if weight == 0:
            return self.image_loss(step, self.network(batch.lr, idr), batch)
        target = self.target(batch)
        kl = kl_divergence(idr, target, temperature=section.kl_temperature, reduction=section.kl_reduction)
        absolute = absolute_difference(idr, target)
        distillation = weight * (section.lambda_kl * kl + section.lambda_abs * absolute)
        terms = {"kl": kl, "abs": absolute}
        if step < section.encoder_steps:
            return {"loss": distillation, **terms}
        image = self.image_loss(step, self.network(batch.lr, idr), batch)
        return {**image, **terms, "loss": image["loss"] + distillation}


STAGES: Mapping[StageName, type[Stage]] = {
    stage.name: stage for stage in (BicubicStage, MetaStage, TeacherStage, StudentStage)
}
"""The stages by name, in the order they are trained in."""


def _mrda_keys(stage: StageName, config: TrainConfig) -> tuple[str, ...]:
    """Config keys that teacher and student depend on."""
    visual = () if config.visual_step(stage) is None else ("visual",)
    return *degradation_keys(config), *visual, "train.luma", "networks", "adaptation", "freeze_upscaler"
