# SPDX-License-Identifier: Apache-2.0
"""Options that have no effect beside others, so that `--set` of them is refused and not ignored."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import fields

from mrda.config.base import STAGES
from mrda.config.train import TrainConfig
from mrda.options.classic import ClassicOptions, CommonOptions

_SHARED = {field.name for field in fields(CommonOptions)}
_CLASSIC = tuple(f"degradation.{field.name}" for field in fields(ClassicOptions) if field.name not in _SHARED)


def check_used(config: TrainConfig, given: Collection[str]) -> None:
    """Check that options that were set have an effect.

    Args:
        config: the whole configuration.
        given: dotted paths of the options that were set.

    Raises:
        ValueError: one has none; the message says which other option stands in its way.
    """
    for prefixes, is_used, requirement in _rules(config):
        for path in given:
            if path.startswith(prefixes) and not is_used:
                raise ValueError(f"{path} has no effect unless {requirement}: set that too, or leave it out")


def _rules(config: TrainConfig) -> Iterator[tuple[tuple[str, ...], bool, str]]:
    """Yield beginnings of paths, True if these options have an effect, and what they require."""
    degradation, is_real = config.degradation, config.degradation.type == "real"
    yield ("real.",), is_real, "degradation.type=real"
    yield _CLASSIC, not is_real, "degradation.type=classic"
    yield (*_CLASSIC, "degradation.lr_up_from"), not config.data.pairs, "data.pairs is left out"
    blurs, anisotropic = degradation.kernel != "none", degradation.kernel == "anisotropic"
    yield ("degradation.kernel_size", "degradation.sigma_range"), blurs, "degradation.kernel is a blur"
    yield ("degradation.theta_range", "degradation.aniso_param"), anisotropic, "degradation.kernel=anisotropic"
    photos = ("sources", "pairs")
    others = tuple(f"validation.{name}" for name in type(config.validation).model_fields if name not in photos)
    yield others, config.validation.is_on, "validation.sources or validation.pairs names photos"
    judged = ("validation.protocol", "validation.conditions")
    yield judged, not config.validation.pairs, "validation.pairs is left out"
    visual = any(config.visual_step(name) is not None for name in STAGES)
    yield ("visual.",), visual, "teacher.visual_from or student.visual_from is a step"
    perceptual = ("visual.backbone", "visual.perceptual_layers", "visual.vgg")
    yield perceptual, config.visual.perceptual_weight > 0, "visual.perceptual_weight is above 0"
    for name in ("vgg16", "vgg19"):
        yield (f"visual.{name}",), config.visual.backbone == name, f"visual.backbone={name}"
    restores = not {"teacher", "student"}.isdisjoint(config.train.stages)
    yield ("train.luma",), restores, "train.stages has teacher or student"
    for name in STAGES:
        law = config.stage(name).lr_law
        yield (f"{name}.halve_",), law == "halving", f"{name}.lr_law=halving"
        yield (f"{name}.lr_min",), law == "cosine", f"{name}.lr_law=cosine"
    phase = ("student.encoder_lr", "student.encoder_decay_")
    yield phase, config.student.encoder_steps > 0, "student.encoder_steps is above 0"
