# SPDX-License-Identifier: Apache-2.0
"""Options of the method's stages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mrda.config.base import Count, PositiveFloat, PositiveInt, Section, Weight
from mrda.core.checks import NOT_BOOL
from mrda.options.networks import INNER_STEPS

Beta = Annotated[float, Field(ge=0, lt=1)]


class StageConfig(Section):
    """Options that every stage has."""

    steps: PositiveInt
    """Optimizer steps."""
    batch: PositiveInt
    """Images in one micro-batch."""
    lr: PositiveFloat = 1e-4
    """Adam's learning rate at the start."""
    lr_law: Literal["halving", "cosine", "constant"] = "halving"
    """Schedule of the learning rate: halve it every `halve_every` steps, let it fall along half a cosine to `lr_min`,
    or keep it."""
    halve_every: PositiveInt
    """Steps between two halvings."""
    halve_first: PositiveInt | None = None
    """Steps before the first halving; null: `halve_every`. The released code counts epochs from 1, so that its first
    halving comes an epoch early."""
    lr_min: Weight = 0.0
    """Learning rate at the end of the cosine."""
    warmup_steps: Count = 0
    """First steps, in which the learning rate rises linearly to that of its schedule."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Adam, or Muon, which makes each step of a matrix orthogonal and usually needs fewer steps; both take the same
    rates."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Adam's decay rates."""
    init_network: Path | None = None
    """Weights to start from, made by another run of the same stage; from those of another kind of network, only the
    RDAN is used, and one of fewer blocks computes the same as before. Adam's moments start at zero, so that a few
    `warmup_steps` are advisable."""


class BicubicConfig(StageConfig):
    """Stage 1a: the MLN learns plain bicubic super-resolution."""

    steps: PositiveInt = 582_600
    """Optimizer steps."""
    batch: PositiveInt = 64
    """Images in one micro-batch."""
    halve_every: PositiveInt = 121_375
    """Steps between two halvings."""
    blur: bool = False
    """Train on the training degradations instead of plain bicubic downsampling, which gives the MLN of Fig. 9a that is
    neither bicubic-trained nor meta-learned."""


class MetaConfig(StageConfig):
    """Stage 1b: the MLN is meta-learned over degradations (Algorithm 1)."""

    steps: PositiveInt = 129_600
    """Optimizer steps."""
    batch: PositiveInt = 32
    """Images in one micro-batch; even, because one half adapts the MLN and the other gives its loss."""
    halve_every: PositiveInt = 32_400
    """Steps between two halvings."""
    tasks: PositiveInt = 5
    """Degradations (tasks) per step, m in the paper."""
    same_hr_across_tasks: bool = True
    """Use the same HR images for all tasks of a step; false: draw new ones for each."""
    maml_order: Annotated[Literal[1, 2], NOT_BOOL] = 1
    """Order of the meta-gradient: 1 takes it at the adapted weights, 2 differentiates through the inner steps, as MAML
    does, with two to three times the memory."""
    outer_aggregate: Literal["mean", "sum"] = "mean"
    """Average or sum the tasks' gradients; for Adam this makes a difference only with `train.gradient_clip`."""
    inner_steps: Count = INNER_STEPS
    """SGD steps per task, n in the paper."""
    inner_lr: Annotated[list[PositiveFloat], Field(min_length=1)] = [1e-2]
    """Learning rate of each inner step, alpha in the paper; the last one is used for all further steps."""
    inner_clip: PositiveFloat | None = None
    """As `adaptation.inner_clip`, in meta-learning."""
    init_mln: Path | None = None
    """Weights of the bicubic MLN to start from; null: those of this run."""

    @model_validator(mode="after")
    def _halves(self) -> MetaConfig:
        if self.batch % 2:
            raise ValueError(f"batch must be even, it was {self.batch}")
        return self


class TeacherConfig(StageConfig):
    """Stage 2: RDAN and the teacher's DEN learn from the adapted MLN's features."""

    den_input: Literal["features", "lr_hr", "lr", "kernel"] = "features"
    """Input of the DEN: the adapted MLN's features (MRDA_T, T2 of Table V); LR and HR together, without an MLN (the
    teacher of KDSR); the blur kernel itself, through linear layers (the oracle T3, whose student is not in the paper);
    or LR alone, without an MLN (T1, S6)."""
    visual_from: Count | None = None
    """First step with the visual loss in place of L1 (section `visual`); null: never."""

    steps: PositiveInt = 647_000
    """Optimizer steps."""
    batch: PositiveInt = 16
    """Images in one micro-batch."""
    halve_every: PositiveInt = 161_750
    """Steps between two halvings."""
    init_mln: Path | None = None
    """Weights of the meta-learned MLN; null: those of this run."""


class StudentConfig(StageConfig):
    """Stage 3: a DEN that sees only the LR image learns the teacher's IDR, and the RDAN is trained with it."""

    steps: PositiveInt = 323_500
    """Optimizer steps, including the encoder-only phase."""
    batch: PositiveInt = 16
    """Images in one micro-batch."""
    halve_every: PositiveInt = 80_875
    """Steps between two halvings, counted from the end of the encoder-only phase."""
    encoder_steps: Count = 64_700
    """Steps of the encoder-only phase at the start: only the DEN is trained, by the distillation losses alone."""
    encoder_lr: PositiveFloat = 1e-4
    """Learning rate of the encoder-only phase."""
    encoder_decay_every: PositiveInt = 38_820
    """Steps of the encoder-only phase between two falls of its learning rate to a tenth."""
    encoder_decay_first: PositiveInt | None = None
    """Steps before the first such fall; null: `encoder_decay_every`."""
    rdan_lr_factor: PositiveFloat = 1.0
    """Learning rate of the RDAN, which begins as the teacher's, as a factor of the DEN's."""
    visual_from: Count | None = None
    """First step with the visual loss in place of L1 (section `visual`), or the first one after the encoder-only phase
    if that is later; null: never."""
    lambda_kl: Weight = 1.0
    """Weight of the KL divergence between the IDRs (Eq. 4)."""
    lambda_abs: Weight = 0.1
    """Weight of the L1 distance between the IDRs (Eq. 5)."""
    distil_share: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    """Share of the steps after the encoder-only phase in which the distillation fades to nothing, by a cosine, so that
    the DEN learns from the image loss alone afterwards; null: it stays until the end, as published."""
    kl_temperature: PositiveFloat = 0.15
    """Divisor of both raw IDRs before their softmax; 1 in the paper."""
    kl_reduction: Literal["batchmean", "mean_elements"] = "batchmean"
    """Reduction of the KL divergence: sum over the IDR and average over the batch, or average over both (Eq. 4 as
    printed)."""
    init_mln: Path | None = None
    """Weights of the meta-learned MLN; null: those of this run."""
    init_teacher: Path | None = None
    """Weights of the teacher; null: those of this run."""

    @property
    def distilled_steps(self) -> int:
        """Number of first steps in which the distillation has a weight."""
        if self.lambda_kl == self.lambda_abs == 0:
            return self.encoder_steps
        if self.distil_share is None:
            return self.steps
        return self.encoder_steps + math.ceil(self.distil_share * (self.steps - self.encoder_steps))

    @model_validator(mode="after")
    def _phases(self) -> StudentConfig:
        if self.encoder_steps > self.steps:
            raise ValueError(f"encoder_steps must be at most steps, it was {self.encoder_steps} of {self.steps}")
        return self
