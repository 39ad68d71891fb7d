"""The stages of the method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mrda.config.base import Count, NoBool, PositiveFloat, PositiveInt, Section, Weight

Beta = Annotated[float, Field(ge=0, lt=1)]


class StageConfig(Section):
    """What every stage has."""

    steps: PositiveInt
    """Optimizer steps."""
    batch: PositiveInt
    """Images in one micro-batch."""
    lr: PositiveFloat = 1e-4
    """Adam's learning rate at the start."""
    lr_law: Literal["halving", "cosine", "constant"] = "halving"
    """The learning rate halves every `halve_every` steps, follows half a cosine to `lr_min`, or stays."""
    halve_every: PositiveInt
    """Steps between two halvings."""
    halve_first: PositiveInt | None = None
    """Steps before the first halving; null is `halve_every`. The released code counts epochs from 1, so that its
    first halving comes an epoch early."""
    lr_min: Weight = 0.0
    """Where the cosine ends."""
    warmup_steps: Count = 0
    """First steps, in which the learning rate rises evenly up to what its law says."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Adam's decay rates."""
    init_network: Path | None = None
    """Weights to start from, which another run of this very stage has left; of a network of another kind the RDAN alone
    is taken. Adam's averages start anew, so that a few `warmup_steps` are advisable."""


class BicubicConfig(StageConfig):
    """Stage 1a: the MLN learns plain bicubic super-resolution."""

    steps: PositiveInt = 582_600
    """Optimizer steps."""
    batch: PositiveInt = 64
    """Images in one micro-batch."""
    halve_every: PositiveInt = 121_375
    """Steps between two halvings."""
    blur: bool = False
    """Train on the training degradations instead of plain bicubic downsampling: an MLN of Fig. 9a that is neither
    bicubic-trained nor meta-learned."""


class MetaConfig(StageConfig):
    """Stage 1b: the MLN is meta-learned over degradations (Algorithm 1)."""

    steps: PositiveInt = 129_600
    """Optimizer steps."""
    batch: PositiveInt = 32
    """Images in one micro-batch; even, for one half adapts the MLN and the other judges it."""
    halve_every: PositiveInt = 32_400
    """Steps between two halvings."""
    tasks: PositiveInt = 5
    """Degradations (tasks) per step, m in the paper."""
    same_hr_across_tasks: bool = True
    """All tasks of a step see the same HR images, or each draws its own."""
    maml_order: Annotated[Literal[1, 2], NoBool] = 1
    """Order of the meta-gradient: at the adapted weights (first order), or through the inner steps (second order, as
    MAML; takes two to three times the memory)."""
    outer_aggregate: Literal["mean", "sum"] = "mean"
    """Whether the tasks' gradients are averaged or summed; Adam sees no difference but through `gradient_clip`."""
    inner_steps: Count = 5
    """SGD steps per task, n in the paper."""
    inner_lr: Annotated[list[PositiveFloat], Field(min_length=1)] = [1e-2]
    """Learning rate of each inner step, alpha in the paper; the last one serves all further steps."""
    init_mln: Path | None = None
    """Weights of the bicubic MLN to start from, in place of this run's own."""

    @model_validator(mode="after")
    def _halves(self) -> MetaConfig:
        if self.batch % 2:
            raise ValueError(f"batch must be even, it was {self.batch}")
        return self


class TeacherConfig(StageConfig):
    """Stage 2: RDAN and the teacher's DEN learn from the adapted MLN's features."""

    den_input: Literal["features", "lr", "kernel"] = "features"
    """What the degradation is read from: the adapted MLN's features (MRDA_T, T2 of Table V); LR alone, without any
    MLN (T1, S6); or the blur kernel itself, through linear layers (the oracle T3)."""
    visual_from: Count | None = None
    """First step with the visual loss in the place of L1 (section `visual`); null never."""

    steps: PositiveInt = 647_000
    """Optimizer steps."""
    batch: PositiveInt = 16
    """Images in one micro-batch."""
    halve_every: PositiveInt = 161_750
    """Steps between two halvings."""
    init_mln: Path | None = None
    """Weights of the meta-learned MLN, in place of this run's own."""


class StudentConfig(StageConfig):
    """Stage 3: a DEN that sees the LR image alone learns the teacher's IDR, and RDAN follows."""

    steps: PositiveInt = 323_500
    """Optimizer steps, those of the encoder-only phase included."""
    batch: PositiveInt = 16
    """Images in one micro-batch."""
    halve_every: PositiveInt = 80_875
    """Steps between two halvings, counted from the end of the encoder-only phase."""
    encoder_steps: Count = 64_700
    """First steps, in which only the DEN moves and only the distillation losses count."""
    encoder_lr: PositiveFloat = 1e-4
    """Learning rate of the encoder-only phase."""
    encoder_decay_every: PositiveInt = 38_820
    """Steps of the encoder-only phase after each of which its learning rate falls to a tenth."""
    encoder_decay_first: PositiveInt | None = None
    """Steps before the first such fall; null is `encoder_decay_every`."""
    visual_from: Count | None = None
    """First step with the visual loss in the place of L1 (section `visual`), not before the encoder-only phase is over;
    null never."""
    lambda_kl: Weight = 1.0
    """Weight of the KL divergence between the IDRs (Eq. 4)."""
    lambda_abs: Weight = 0.1
    """Weight of the L1 distance between the IDRs (Eq. 5)."""
    kl_temperature: PositiveFloat = 0.15
    """What both raw IDRs are divided by before their softmax; 1 in the paper."""
    kl_reduction: Literal["batchmean", "mean_elements"] = "batchmean"
    """KL summed over the IDR and averaged over the batch, or averaged over both (Eq. 4 as printed)."""
    init_mln: Path | None = None
    """Weights of the meta-learned MLN, in place of this run's own."""
    init_teacher: Path | None = None
    """Weights of the teacher, in place of this run's own."""

    @model_validator(mode="after")
    def _phases(self) -> StudentConfig:
        if self.encoder_steps > self.steps:
            raise ValueError(f"encoder_steps must be at most steps, it was {self.encoder_steps} of {self.steps}")
        return self
