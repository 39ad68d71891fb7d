"""How a training runs and how it is validated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mrda.config.base import STAGES, Count, PositiveFloat, PositiveInt, Section, StageName


class EngineConfig(Section):
    """How the training runs, whatever the stage."""

    stages: Annotated[list[StageName], Field(min_length=1)] = list(STAGES)
    """The stages that a run goes through."""
    steps: PositiveInt | None = None
    """Optimizer steps of every stage, in place of its own; all its schedules shrink or grow in proportion."""
    micro_batches: PositiveInt | None = None
    """Micro-batches per optimizer step over all processes, a multiple of their number; gradients are averaged, each
    micro-batch has its own degradation and adaptation. null is one for each process."""
    adapt_sync: bool = False
    """Adapt one MLN to the micro-batches of all processes together: they share the degradation, and the inner
    gradients are averaged. Needs one micro-batch for each process."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast of the networks; parameters stay in float32."""
    gradient_clip: PositiveFloat | None = None
    """Largest 2-norm of the gradient; null leaves it alone."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the trained weights, which is then what is validated and
    published; null keeps none."""
    max_nonfinite: Count = 10
    """Steps in a row that may be skipped for a loss or gradient that is not finite; one more ends the run."""
    channels_last: bool = True
    """Memory layout of the networks."""
    compile: bool = False
    """torch.compile the trained networks."""
    cuda_graphs: bool = True
    """On a GPU, launch the loss and its gradients as one CUDA graph, which takes the time of launching thousands of
    kernels out of every step, and holds a step's memory between them. Not where `compile` is set, and not for an MLN
    that drifts or adapts with others."""
    prefetch: PositiveInt = 4
    """Micro-batches that a thread reads ahead."""
    log_every: PositiveInt = 100
    """Steps between two records in the log; each averages over the steps since the last."""
    checkpoint_every: PositiveInt = 5_000
    """Steps between two checkpoints of a stage."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints of a stage that stay on the disk."""


class ValidationConfig(Section):
    """PSNR-Y and SSIM-Y on held-out photos during the training, under fixed degradations."""

    sources: list[str] = []
    """Folders or image files, as in `data.sources`; without any there is no validation."""
    every: PositiveInt = 5_000
    """Steps between two validations; there is one at the end of each stage, too."""
    protocol: Literal["auto", "gaussian8", "mrda9", "dasr9", "bicubic"] = "auto"
    """Test degradations: `auto` is gaussian8 for isotropic training kernels, mrda9 for anisotropic ones (with its
    noise levels where there is noise in training), bicubic for none, and for `degradation.type: real` as many draws
    of that for each photo as `conditions` says, always the same. Stage 1a is validated under bicubic."""
    conditions: PositiveInt = 3
    """At most that many of the protocol's degradations, evenly spaced."""
    images: PositiveInt = 10
    """At most that many photos, the first ones by name."""
    crop: PositiveInt | None = 256
    """Side of the centre crop of the HR photos that is used, in pixels; null uses them whole."""
    pictures: Count = 2
    """Photos that TensorBoard shows, as bicubic, SR and HR side by side."""
