"""The training configuration: typed, with every default on the recommended value, and presets in YAML.

A configuration is a tree of sections; a dotted path such as ``teacher.steps`` names one field. The field
descriptions below are its reference. `load_config` reads a preset that ships with the package or a YAML file,
then applies overrides; a key it does not know is an error that names the nearest one it does know.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator


def _no_bool(value: object) -> object:
    """YAML's ``yes`` and ``true`` are no numbers, though Python counts with them."""
    if isinstance(value, bool):
        raise ValueError(f"must be an integer, it was {value}")
    return value


StageName = Literal["bicubic", "meta", "teacher", "student"]
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
    """Folders, image files, or `skimage:NAME` for a photo inside the scikit-image wheel; kept in memory."""
    recursive: bool = False
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


class AdaptationConfig(Section):
    """How the MLN is adapted to one batch in the teacher and the student stage (Algorithm 2)."""

    inner_steps: Annotated[Int, Field(ge=0)] = 5
    """SGD steps on the batch, n in the paper."""
    inner_lr: Annotated[list[PositiveFloat], Field(min_length=1)] = [1e-2, 5e-3, 5e-3, 5e-3, 5e-3, 1e-3]
    """Learning rate of each inner step; the last one serves all further steps."""


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


class MetaConfig(StageConfig):
    """Stage 1b: the MLN is meta-learned over degradations (Algorithm 1, first-order gradients)."""

    steps: PositiveInt = 129_600
    """Optimizer steps."""
    batch: PositiveInt = 32
    """Images in one micro-batch; even, for one half adapts the MLN and the other judges it."""
    halve_every: PositiveInt = 32_400
    """Steps between two halvings."""
    tasks: PositiveInt = 5
    """Degradations (tasks) per step, m in the paper; all of them see the same HR images."""
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
    mixed_precision: Literal["no", "bf16"] = "no"
    """Autocast of the networks to bfloat16; parameters stay in float32."""
    micro_batches: PositiveInt = 1
    """Micro-batches per optimizer step; gradients are averaged, each micro-batch has its own degradation."""
    gradient_clip: PositiveFloat | None = None
    """Largest 2-norm of the gradient; null leaves it alone."""
    freeze_upscaler: Literal["all", "student_only", "none"] = "all"
    """Where the MLN's upscaler stays as bicubic pretraining left it: in every later stage (Table VI shows the
    gain), in the student stage's adaptation only, or nowhere."""
    log_every: PositiveInt = 100
    """Steps between two records in the log; each averages over the steps since the last."""
    checkpoint_every: PositiveInt = 5_000
    """Steps between two checkpoints of a stage."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints of a stage that stay on the disk."""
    data: DataConfig = DataConfig()
    degradation: DegradationConfig = DegradationConfig()
    networks: NetworksConfig = NetworksConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
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

    def stage(self, name: StageName) -> StageConfig:
        """The section of stage ``name``."""
        section: StageConfig = getattr(self, name)
        return section

    def to_yaml(self) -> str:
        """The whole configuration as YAML, which `load_config` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def presets() -> dict[str, Traversable]:
    """Names and files of the presets that ship with the package."""
    folder = resources.files("mrda").joinpath("configs")
    files = (entry for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {entry.name.removesuffix(".yaml"): entry for entry in sorted(files, key=lambda entry: entry.name)}


def load_config(name_or_path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a configuration and apply overrides to it.

    Args:
        name_or_path: name of a preset (see `presets`) or path of a YAML file.
        overrides: assignments such as ``"teacher.steps=10"``; the value is read as YAML.

    Raises:
        ValueError: for an unknown preset, a file that is unreadable or no YAML mapping, an override without ``=``, an
            unknown key (the nearest known one is named) or a value that its field does not allow.
    """
    known = presets()
    if str(name_or_path) in known:
        text = known[str(name_or_path)].read_text(encoding="utf-8")
    elif os.path.isfile(name_or_path):
        text = _read(Path(name_or_path))
    else:
        raise ValueError(f"config '{name_or_path}' must be a file or one of the presets {', '.join(known)}")
    tree = _parse_yaml(text, f"config '{name_or_path}'")
    if not isinstance(tree, dict):
        raise ValueError(f"config '{name_or_path}' must be a YAML mapping of options, it was {tree!r}")
    for override in overrides:
        _assign(tree, override)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> TrainConfig:
    """Validate a nested mapping of options.

    Raises:
        ValueError: one sentence on the first thing that is wrong; unknown keys come first.
    """
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        location, kind = problems[0]["loc"], problems[0]["type"]
        path = ".".join(str(part) for part in location)
        subject = f"config key '{path}'" if path else "config"
        if kind == "extra_forbidden":
            raise ValueError(f"unknown config key '{path}'; did you mean '{_nearest(path)}'?") from None
        message = problems[0]["msg"].removeprefix("Value error, ")
        given = "" if kind == "value_error" else f", it was {problems[0]['input']!r}"
        raise ValueError(f"{subject}: {message[0].lower()}{message[1:]}{given}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"config '{path}' is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"config '{path}' can't be read: {error.strerror}") from None


def _parse_yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from None


def _assign(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"override '{override}' must look like 'section.key=value'")
    for key in keys[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[keys[-1]] = _parse_yaml(text, f"the value of override '{override}'")


def _nearest(path: str) -> str:
    """The known dotted path closest to an unknown one: in its own section if that exists, else anywhere."""
    known = list(_paths(TrainConfig))
    section, _, key = path.rpartition(".")
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    close = difflib.get_close_matches(path, siblings, n=1) or [
        other for other in known if other.rpartition(".")[2] == key
    ]
    return close[0] if close else difflib.get_close_matches(path, known, n=1, cutoff=0.0)[0]


def _paths(model: type[Section], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _paths(field.annotation, f"{prefix}{name}.")
