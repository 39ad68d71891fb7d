# SPDX-License-Identifier: Apache-2.0
"""Options of a training run, whatever the stage, and of its validation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mrda.config.base import STAGES, Count, PositiveFloat, PositiveInt, Section, StageName
from mrda.config.data import PairsConfig


class EngineConfig(Section):
    """Options of a training run, whatever the stage."""

    stages: Annotated[list[StageName], Field(min_length=1)] = list(STAGES)
    """Stages of the run."""
    steps: PositiveInt | None = None
    """Optimizer steps of every stage, in place of its own `steps`; its schedules are scaled in proportion. `--set` of a
    stage's own steps or schedule takes precedence."""
    micro_batches: PositiveInt | None = None
    """Micro-batches per optimizer step over all processes, a multiple of their number. Each has its own degradation and
    adaptation; their gradients are averaged. null: one per process."""
    adapt_sync: bool = False
    """Adapt one MLN to the micro-batches of all processes together: they share the degradation, and the inner
    gradients are averaged. Requires one micro-batch per process."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast of the networks and of Muon's products; parameters stay in float32."""
    luma: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the teacher's and student's L1 loss that is computed on luma instead of RGB; PSNR-Y is measured on
    luma."""
    gradient_clip: PositiveFloat | None = None
    """Maximum 2-norm of the gradient, which is clipped to it; null: no clipping."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the trained weights, which is validated and published in
    their place; null: no average."""
    max_nonfinite: Count = 10
    """Consecutive steps that may be skipped because the loss or the gradient is not finite; one more ends the run."""
    channels_last: bool = True
    """Memory layout of the networks."""
    compile: bool = False
    """torch.compile the trained networks."""
    cuda_graphs: bool = True
    """On a GPU, launch the loss and its gradients as one CUDA graph, which saves the time of launching thousands of
    kernels in every step, but keeps a step's memory reserved between steps. Ignored with `compile`, `adapt_sync`, or
    `adaptation.reset_mln: false`."""
    prefetch: PositiveInt = 4
    """Micro-batches that a thread prepares in advance."""
    tracker: str = "tensorboard"
    """Program that gets the curves besides `log.jsonl`: `tensorboard`, or another tracker that Accelerate knows and
    whose package is installed, such as `wandb`, `mlflow` or `trackio`."""
    log_every: PositiveInt = 100
    """Steps between two records in the log; each is an average over the steps since the previous record."""
    checkpoint_every: PositiveInt = 5_000
    """Steps between two checkpoints of a stage."""
    keep_checkpoints: PositiveInt = 2
    """Number of a stage's newest checkpoints that are kept on disk."""


class ValidationConfig(Section):
    """Validation during the training: PSNR-Y and SSIM-Y on held-out photos under fixed degradations."""

    sources: list[str] = []
    """Folders or image files, as in `data.sources`; if there are neither these nor `pairs`, there is no validation."""
    pairs: list[PairsConfig] = []
    """Pairs of LR and HR folders in place of `sources`, as in `data.pairs`, which are measured as they are. Stage 1a is
    validated on their HR photos."""
    every: PositiveInt = 5_000
    """Steps between two validations; each stage ends with one as well."""
    protocol: Literal["auto", "gaussian8", "mrda9", "dasr9", "bicubic"] = "auto"
    """Test degradations. `auto` is gaussian8 for isotropic training kernels, mrda9 for anisotropic ones (with its noise
    levels if the training has noise), bicubic for none; with `degradation.type: real` it is a fixed number of draws of
    that degradation per photo, see `conditions`. Stage 1a is validated under bicubic."""
    conditions: PositiveInt = 3
    """Maximum number of degradations, picked evenly from those of the protocol."""
    images: PositiveInt = 10
    """Maximum number of photos, the first ones by name."""
    crop: PositiveInt | None = 256
    """Side of the centre crop of the HR photos that is used, in pixels; null: the whole photos."""
    pictures: Count = 2
    """Number of photos that the tracker shows, as bicubic, SR and HR side by side."""

    @model_validator(mode="after")
    def _photos_or_pairs(self) -> ValidationConfig:
        if self.pairs and self.sources:
            raise ValueError("pairs take the place of sources: set validation.sources=[] or leave validation.pairs out")
        return self

    @property
    def is_on(self) -> bool:
        """True if there are photos to validate on."""
        return bool(self.sources or self.pairs)
