"""The training configuration: typed, with every default on the recommended value.

A configuration is a tree of sections; a dotted path such as ``teacher.steps`` names one field. The field
descriptions below are its reference; mrda.configs has the files that ship with the package and reads others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def _no_bool(value: object) -> object:
    """YAML's ``yes`` and ``true`` are no numbers, though Python counts with them."""
    if isinstance(value, bool):
        raise ValueError(f"must be an integer, it was {value}")
    return value


StageName = Literal["bicubic", "meta", "teacher", "student"]
STAGES: tuple[StageName, ...] = ("bicubic", "meta", "teacher", "student")
Int = Annotated[int, BeforeValidator(_no_bool)]
PositiveInt = Annotated[Int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Angle = Annotated[float, Field(allow_inf_nan=False)]
Range = tuple[Weight, Weight]


class Section(BaseModel):
    """A group of options; unknown keys are errors and values do not change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataConfig(Section):
    """Where the HR training photos come from."""

    sources: list[str] = []
    """Folders, image files, caches made by `mrda data prepare`, or `skimage:NAME` for a photo inside the scikit-image
    wheel. Photos are kept in memory, caches stay on the disk."""
    recursive: bool = True
    """Look into the subfolders of the folders too."""
    patch_size: PositiveInt = 64
    """Side of the training patches in LR pixels; the HR patches are `scale` times larger."""


class DegradationConfig(Section):
    """The classic degradation: Gaussian blur, downsampling, Gaussian noise."""

    kernel: Literal["isotropic", "anisotropic", "none"] = "isotropic"
    """Family of blur kernels."""
    kernel_size: PositiveInt = 21
    """Side of the blur kernels in HR pixels; odd."""
    sigma_range: Range | None = None
    """Range of the kernels' standard deviations in HR pixels; null means 0.2 to 2, 3, 4 for x2, x3, x4."""
    theta_range: tuple[Angle, Angle] = (0.0, 3.141592653589793)
    """Range of the rotation of anisotropic kernels in radians."""
    aniso_param: Literal["sigma", "eigen"] = "sigma"
    """What `sigma_range` gives for anisotropic kernels: standard deviations or covariance eigenvalues."""
    noise_range: Range = (0.0, 0.0)
    """Range of the noise's standard deviation, on the 0..255 scale."""
    per: Literal["batch", "image"] = "batch"
    """Draw one degradation per batch (the premise of adapting the MLN to a batch) or one per image."""
    downsample: Literal["bicubic", "sfold"] = "bicubic"
    """Downsampling after the blur: antialiased bicubic, or every `scale`-th pixel."""
    border: Literal["clamp", "mirror"] = "clamp"
    """Border rule of the bicubic resampling; `mirror` is MATLAB's."""
    lr_up_from: Literal["raw", "quantised"] = "raw"
    """What the MLN's residual input is enlarged from: LR before its rounding to 8 bits, or after."""

    @property
    def resampling(self) -> dict[str, str]:
        """The options that fixed degradations of an evaluation share with those of the training."""
        return {"downsample": self.downsample, "border": self.border, "lr_up_from": self.lr_up_from}

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"must be odd, it was {size}")
        return size

    @field_validator("sigma_range", "theta_range", "noise_range")
    @classmethod
    def _ascending(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError(f"must be [lowest, highest], it was {list(bounds)}")
        return bounds


class NetworksConfig(Section):
    """Widths and depths of the networks; the defaults are the published classic model."""

    mln_feat: PositiveInt = 128
    """Channels of the MLN, C' in the paper."""
    mln_body: PositiveInt = 6
    """Body convolutions of the MLN."""
    num_feat: PositiveInt = 64
    """Channels of the RDAN, C in the paper."""
    num_blocks: PositiveInt = 27
    """RDA blocks of the RDAN."""
    kernel_size: Annotated[Literal[1, 3, 5, 7], BeforeValidator(_no_bool)] = 3
    """Side of the dynamic depthwise kernels."""
    den_width: PositiveInt = 64
    """Base width of both DENs; the raw IDR has four times as many elements."""
    mask_channels: Annotated[Literal[1, "C"], BeforeValidator(_no_bool)] = 1
    """Channels of the modulation mask: 1 as published, or C as Eq. 9 reads."""
    mask_input: Literal["F", "F1"] = "F"
    """What the mask is computed from: the RDA conv's input (Eq. 9) or the dynamic conv's output."""
    dyn_act: Literal["lrelu", "none"] = "lrelu"
    """Activation on the dynamic conv's output; `none` is Eq. 8 as printed."""
    conv_type: Literal["rda", "dasr_da", "static"] = "rda"
    """What stands at the place of the RDA conv: itself, DASR's DA conv (row S4 of Table V), or a static conv with
    the DA conv's channel attention (S5)."""
    static_groups: Literal["C", "dense"] = "C"
    """Whether the static conv of `conv_type: static` is depthwise or dense."""


class AdaptationConfig(Section):
    """How the MLN is adapted to one batch in the teacher and the student stage (Algorithm 2)."""

    inner_steps: Annotated[Int, Field(ge=0)] = 5
    """SGD steps on the batch, n in the paper."""
    inner_lr: Annotated[list[PositiveFloat], Field(min_length=1)] = [1e-2, 5e-3, 5e-3, 5e-3, 5e-3, 1e-3]
    """Learning rate of each inner step; the last one serves all further steps."""
    per: Literal["batch", "image"] = "batch"
    """One set of adapted weights per batch, on its mean loss, or one per image, on its own loss."""
    reset_mln: bool = True
    """Start every adaptation from the meta-learned MLN; false lets the MLN drift over the whole stage, as a fault of
    the released code does."""

    @model_validator(mode="after")
    def _one_drift(self) -> AdaptationConfig:
        if not self.reset_mln and self.per == "image":
            raise ValueError("reset_mln: false needs per: batch, for weights of each image can't be carried on")
        return self


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
    gradients are averaged."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast of the networks; parameters stay in float32."""
    gradient_clip: PositiveFloat | None = None
    """Largest 2-norm of the gradient; null leaves it alone."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the trained weights, which is then what is validated and
    published; null keeps none."""
    max_nonfinite: Annotated[Int, Field(ge=0)] = 10
    """Steps in a row that may be skipped for a loss or gradient that is not finite; one more ends the run."""
    channels_last: bool = True
    """Memory layout of the networks."""
    compile: bool = False
    """torch.compile the trained networks."""
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
    noise levels where there is noise in training) and bicubic for none. Stage 1a is validated under bicubic."""
    conditions: PositiveInt = 3
    """At most that many of the protocol's degradations, evenly spaced."""
    images: PositiveInt = 10
    """At most that many photos, the first ones by name."""
    crop: PositiveInt | None = 256
    """Side of the centre crop of the HR photos that is used, in pixels; null uses them whole."""
    pictures: Annotated[Int, Field(ge=0)] = 2
    """Photos that TensorBoard shows, as bicubic, SR and HR side by side."""


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
    maml_order: Annotated[Literal[1, 2], BeforeValidator(_no_bool)] = 1
    """Order of the meta-gradient: at the adapted weights (first order), or through the inner steps (second order, as
    MAML; takes two to three times the memory)."""
    outer_aggregate: Literal["mean", "sum"] = "mean"
    """Whether the tasks' gradients are averaged or summed; Adam sees no difference but through `gradient_clip`."""
    inner_steps: Annotated[Int, Field(ge=0)] = 5
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
    encoder_steps: Annotated[Int, Field(ge=0)] = 64_700
    """First steps, in which only the DEN moves and only the distillation losses count."""
    encoder_lr: PositiveFloat = 1e-4
    """Learning rate of the encoder-only phase."""
    encoder_decay_every: PositiveInt = 38_820
    """Steps of the encoder-only phase after each of which its learning rate falls to a tenth."""
    encoder_decay_first: PositiveInt | None = None
    """Steps before the first such fall; null is `encoder_decay_every`."""
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


class TrainConfig(Section):
    """Everything that a training run of the three stages depends on."""

    scale: Literal[2, 3, 4] = 4
    """Upscaling factor."""
    seed: Int = 1
    """Every random draw of the run is a function of this seed, the stage, the step and the micro-batch."""
    freeze_upscaler: Literal["all", "student_only", "none"] = "all"
    """Where the MLN's upscaler stays as bicubic pretraining left it: in every later stage (Table VI shows the
    gain), in the student stage's adaptation only, or nowhere."""
    data: DataConfig = DataConfig()
    degradation: DegradationConfig = DegradationConfig()
    networks: NetworksConfig = NetworksConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
    train: EngineConfig = EngineConfig()
    validation: ValidationConfig = ValidationConfig()
    bicubic: BicubicConfig = BicubicConfig()
    meta: MetaConfig = MetaConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()

    @model_validator(mode="after")
    def _patches_fit_the_blur(self) -> TrainConfig:
        size, smallest = self.scale * self.data.patch_size, self.degradation.kernel_size // 2 + 1
        if self.degradation.kernel != "none" and size < smallest:
            raise ValueError(
                f"scale * data.patch_size must be at least {smallest} px for a blur of "
                f"degradation.kernel_size {self.degradation.kernel_size}, it was {size}"
            )
        return self

    @model_validator(mode="after")
    def _oracle_has_a_kernel(self) -> TrainConfig:
        if self.teacher.den_input == "kernel" and self.degradation.kernel == "none":
            raise ValueError("teacher.den_input: kernel needs blur kernels, but degradation.kernel is none")
        return self

    def stage(self, name: StageName) -> StageConfig:
        """The section of stage ``name``."""
        section: StageConfig = getattr(self, name)
        return section

    def resized(self) -> TrainConfig:
        """Give every stage `train.steps` steps, where that is set, its schedules in proportion; idempotent."""
        if self.train.steps is None:
            return self
        return self.model_copy(update={name: _resized(self.stage(name), self.train.steps) for name in STAGES})

    def to_yaml(self) -> str:
        """The whole configuration as YAML, which `mrda.configs.load_config` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


AnyStage = TypeVar("AnyStage", bound=StageConfig)

_SCHEDULES = ("halve_every", "halve_first", "encoder_steps", "encoder_decay_every", "encoder_decay_first")


def _resized(stage: AnyStage, steps: int) -> AnyStage:
    lengths = {name: getattr(stage, name, None) for name in _SCHEDULES}
    scaled = {
        # None stays the default of what it stands for, and 0 encoder steps stay none.
        name: max(1, round(length * steps / stage.steps))
        for name, length in lengths.items()
        if length
    }
    return stage.model_copy(update={"steps": steps, **scaled})
