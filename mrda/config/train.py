# SPDX-License-Identifier: Apache-2.0
"""The whole training configuration."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BeforeValidator, model_validator

from mrda.config.base import STAGES, Section, StageName
from mrda.config.data import DataConfig, DegradationConfig
from mrda.config.engine import EngineConfig, ValidationConfig
from mrda.config.names import nested_section
from mrda.config.networks import AdaptationConfig, NetworksConfig
from mrda.config.real import RealConfig
from mrda.config.stages import BicubicConfig, MetaConfig, StageConfig, StudentConfig, TeacherConfig
from mrda.config.visual import VisualConfig
from mrda.core.checks import Int, Scale
from mrda.options.classic import KERNEL_SIZE


class TrainConfig(Section):
    """Everything that a training run of the three stages depends on."""

    scale: Scale = 4
    """Upscaling factor."""
    seed: Int = 1
    """Every random draw of the run is a function of this seed, the stage, the step and the micro-batch."""
    freeze_upscaler: Literal["all", "student_only", "none"] = "all"
    """Keep the MLN's upscaler as bicubic pretraining left it in every later stage (Table VI shows the gain), only when
    the student stage adapts the MLN, or never."""
    data: DataConfig = DataConfig()
    degradation: DegradationConfig = DegradationConfig()
    real: Annotated[RealConfig, BeforeValidator(nested_section)] = RealConfig()
    networks: NetworksConfig = NetworksConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
    train: EngineConfig = EngineConfig()
    validation: ValidationConfig = ValidationConfig()
    bicubic: BicubicConfig = BicubicConfig()
    meta: MetaConfig = MetaConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    visual: VisualConfig = VisualConfig()

    @model_validator(mode="after")
    def _patches_fit_the_blur(self) -> TrainConfig:
        if self.degradation.type == "real":
            size = self.hr_size // self.scale * self.scale
            smallest = self.real.largest_kernel // 2 + 1
            if size < smallest:
                raise ValueError(
                    f"data.crop_size must be at least {smallest} px for a blur of real.first.blur_kernel_size or "
                    f"real.second.blur_kernel_size {self.real.largest_kernel}, crops were of {size}"
                )
            return self
        if self.degradation.kernel == "none" or self.data.pairs:
            return self
        size, smallest = self.scale * self.data.patch_size, self.degradation.kernel_size // 2 + 1
        if size < smallest:
            raise ValueError(
                f"scale * data.patch_size must be at least {smallest} px for a blur of "
                f"degradation.kernel_size {self.degradation.kernel_size}, it was {size}"
            )
        return self

    @model_validator(mode="after")
    def _patches_fit_the_crops(self) -> TrainConfig:
        patch = self.scale * self.data.patch_size
        if self.data.crop_size is not None and self.degradation.type == "classic":
            raise ValueError("data.crop_size requires degradation.type=real, but degradation.type is classic")
        if self.hr_size < patch:
            raise ValueError(
                f"data.crop_size must be at least scale * data.patch_size, {patch}, it was {self.data.crop_size}"
            )
        return self

    @model_validator(mode="after")
    def _pool_is_filled_by_batches(self) -> TrainConfig:
        pool = self.real.queue_size
        if not pool or self.degradation.type == "classic":
            return self
        if self.degradation.per == "batch":
            raise ValueError(
                "real.queue_size requires degradation.per=image: otherwise the MLN adapts to a single degradation"
            )
        for name in STAGES if self.bicubic.blur else STAGES[1:]:
            if pool % self.stage(name).batch:
                raise ValueError(
                    f"real.queue_size must be a multiple of {name}.batch, {self.stage(name).batch}, it was {pool}"
                )
        return self

    @model_validator(mode="after")
    def _sharpened_targets_are_there(self) -> TrainConfig:
        if self.visual.sharpened and not (self.degradation.type == "real" and self.real.usm):
            raise ValueError(
                "visual.l1_gt_usm, percep_gt_usm and gan_gt_usm require real.usm=true and degradation.type=real"
            )
        return self

    @model_validator(mode="after")
    def _images_are_large_enough_to_judge(self) -> TrainConfig:
        if all(self.visual_step(name) is None for name in STAGES):
            return self
        side = self.scale * self.data.patch_size
        smallest = max(16 if self.visual.perceptual_weight else 1, 8 if self.visual.gan_weight else 1)
        if side < smallest:
            raise ValueError(
                f"scale * data.patch_size must be at least {smallest} px for the visual loss, it was {side}"
            )
        return self

    @model_validator(mode="after")
    def _what_adapts_shares_a_degradation(self) -> TrainConfig:
        if self.adaptation.on == "other" and (self.data.pairs or self.degradation.type != "classic"):
            raise ValueError(
                "adaptation.on=other requires degradation.type=classic without data.pairs: other degradations can't be "
                "repeated on another image"
            )
        if self.adaptation.on == "other" and (name := self._adapts_alone):
            raise ValueError(f"adaptation.on=other requires {name}.batch to be at least 2, it was 1")
        if self.adaptation.images is not None and self.degradation.per == "image":
            raise ValueError(
                "adaptation.images requires degradation.per=batch: with per=image every image has its own degradation"
            )
        return self

    @model_validator(mode="after")
    def _batches_can_be_normalised(self) -> TrainConfig:
        for name in ("teacher", "student") if self.networks.den_norm == "batch" else ():
            if self.stage(name).batch == 1:
                raise ValueError(f"networks.den_norm=batch requires {name}.batch to be at least 2, it was 1")
        return self

    @model_validator(mode="after")
    def _oracle_has_a_kernel(self) -> TrainConfig:
        if self.teacher.den_input == "kernel" and self.degradation.kernel == "none":
            raise ValueError("teacher.den_input=kernel requires blur kernels, but degradation.kernel is none")
        if self.teacher.den_input == "kernel" and self.degradation.type == "real":
            raise ValueError("teacher.den_input=kernel requires a single blur kernel, but degradation.type is real")
        return self

    @model_validator(mode="after")
    def _pairs_are_taken_as_they_are(self) -> TrainConfig:
        if self.data.pairs and self.degradation.type == "real":
            raise ValueError("data.pairs has a degradation already: set degradation.type=classic, which is not applied")
        if self.data.pairs and self.train.adapt_sync:
            raise ValueError(
                "train.adapt_sync requires data.sources, because processes draw different pairs: set it to false"
            )
        for pairs, option in ((self.data.pairs, "data.pairs"), (self.validation.pairs, "validation.pairs")):
            if pairs and self.teacher.den_input == "kernel":
                raise ValueError(f"teacher.den_input=kernel requires blur kernels, which {option} does not tell")
        return self

    @model_validator(mode="after")
    def _oracle_is_told_the_test_kernels(self) -> TrainConfig:
        size, section = self.degradation.kernel_size, self.validation
        blurred = bool(section.sources) and section.protocol != "bicubic"
        if self.teacher.den_input == "kernel" and blurred and size != KERNEL_SIZE:
            raise ValueError(
                f"validation.sources with teacher.den_input=kernel requires degradation.kernel_size {KERNEL_SIZE}, "
                f"the size of the blurs in validation, it was {size}"
            )
        return self

    def check_stages(self, stages: Collection[StageName]) -> None:
        """Refuse a choice of stages in which the student stage could not start from the teacher that is trained.

        Raises:
            ValueError: the student's teacher would see no more than LR.
        """
        if "student" in stages and self.teacher.den_input == "lr" and self.student.init_teacher is None:
            raise ValueError(
                "stage 'student' requires a teacher that sees more than LR: give student.init_teacher, leave the stage "
                "out, or set teacher.den_input to features, lr_hr or kernel; it was lr"
            )

    @property
    def hr_size(self) -> int:
        """Side in HR pixels of the images that are degraded in training."""
        return self.data.crop_size or self.scale * self.data.patch_size

    @property
    def adapted_on(self) -> Literal["self", "other"]:
        """The image that an image's MLN is adapted to: `adaptation.on`, or what its null stands for."""
        if self.adaptation.on is not None:
            return self.adaptation.on
        repeatable = self.degradation.type == "classic" and not self.data.pairs
        return "other" if repeatable and self.adaptation.per == "image" and not self._adapts_alone else "self"

    @property
    def _adapts_alone(self) -> StageName | None:
        """The first stage that adapts an MLN in batches of one image, which have no other."""
        names: tuple[StageName, ...] = ("teacher", "student") if self.teacher.den_input == "features" else ()
        return next((name for name in names if self.stage(name).batch == 1), None)

    def stage(self, name: StageName) -> StageConfig:
        """Return the section of stage ``name``."""
        section: StageConfig = getattr(self, name)
        return section

    def visual_step(self, name: StageName) -> int | None:
        """Return a stage's first step with the visual loss, after any encoder-only phase; None if there is none."""
        section = self.stage(name)
        if not isinstance(section, TeacherConfig | StudentConfig) or section.visual_from is None:
            return None
        encoder_steps = section.encoder_steps if isinstance(section, StudentConfig) else 0
        return max(section.visual_from, encoder_steps)

    def resized(self, kept: Collection[str] = ()) -> TrainConfig:
        """Give every stage `train.steps` steps, if that is set, and scale its schedules in proportion.

        In the result `train.steps` is not set: the stages have their steps themselves.

        Args:
            kept: Dotted paths of options that keep their value. A stage whose `steps` are kept keeps its schedules too.

        Raises:
            ValueError: A stage's new steps don't go with an option that keeps its value.
        """
        if self.train.steps is None:
            return self
        changed: dict[str, object] = {
            name: resized(
                self.stage(name),
                self.train.steps,
                {path.partition(".")[2] for path in kept if path.startswith(f"{name}.")},
            )
            for name in STAGES
        }
        return self.model_copy(update=changed | {"train": self.train.model_copy(update={"steps": None})})

    def to_yaml(self) -> str:
        """Return the whole configuration as YAML; `mrda.config.load.load_config` reads an equal one from it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


AnyStage = TypeVar("AnyStage", bound=StageConfig)

_SCHEDULES = (
    "warmup_steps",
    "halve_every",
    "halve_first",
    "encoder_steps",
    "encoder_decay_every",
    "encoder_decay_first",
    "visual_from",
)


def resized(stage: AnyStage, steps: int, kept: Collection[str]) -> AnyStage:
    """Return a stage of so many steps, with its schedules in proportion, but for the options in ``kept``.

    Raises:
        ValueError: The steps don't go with an option that keeps its value.
    """
    if "steps" in kept:
        return stage
    lengths = {name: getattr(stage, name, None) for name in _SCHEDULES if name not in kept}
    scaled = {
        # None and 0 keep their meaning: the default, and no encoder-only phase.
        name: max(1, round(length * steps / stage.steps))
        for name, length in lengths.items()
        if length
    }
    return type(stage).model_validate(stage.model_dump() | {"steps": steps, **scaled})
