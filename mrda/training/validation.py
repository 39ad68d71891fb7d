# SPDX-License-Identifier: Apache-2.0
"""Validation during the training, on held-out photos with fixed degradations and noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from mrda.config import TrainConfig
from mrda.config.names import fingerprint_tree
from mrda.data.pairs import find_all_pairs
from mrda.degradations.classic import crop_to_multiple
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import mln_method, mln_steps, oracle_method, student_method, teacher_method
from mrda.evaluation.metrics import psnr_y, ssim_y
from mrda.evaluation.paired import read_pair
from mrda.evaluation.protocols import conditions
from mrda.evaluation.samples import Condition, Method, Sample, make_sample
from mrda.networks import MLN, BlindNetwork, MRDAOracle, MRDATeacher, Network
from mrda.photo.images import find_images, read_rgb, source_name, to_tensor
from mrda.training.components import build_real_degradation
from mrda.training.processes import Processes
from mrda.training.stages import BicubicStage, MetaStage, Stage

CURVE_STEPS = 5
"""Adaptation steps in the curve of an MLN."""


PAIR = Condition("pair", None)
"""Stands for the degradation of each of `validation.pairs`, which is unknown."""


@dataclass(frozen=True)
class ValidationResult:
    """Results of a validation: means over photos and degradations, and pictures.

    Args:
        psnr_y: PSNR-Y of the stage's network, in dB.
        ssim_y: SSIM-Y of the stage's network.
        psnr_y_bicubic: PSNR-Y of bicubic upscaling, in dB.
        curve: for an MLN that adapts: PSNR-Y after 0, 1, ... steps under the first degradation; None otherwise.
        pictures: bicubic upscaling, SR and HR side by side, (3, H, 3 W) uint8, by the names of the photos.
    """

    psnr_y: float
    ssim_y: float
    psnr_y_bicubic: float
    curve: list[float] | None
    pictures: dict[str, np.ndarray]


class Validation:
    """The photos and degradations to validate on, kept in memory.

    Args:
        config: the run's configuration; its section `validation` names at least one photo.

    Attributes:
        fingerprint: hash of everything the results depend on besides the network: photos, crops, degradations, noise.

    Raises:
        ImageError: a photo can't be read, or a folder holds none.
        ValueError: a photo, or the crop, is too small.
    """

    def __init__(self, config: TrainConfig) -> None:
        section, self.scale, self.seed = config.validation, config.scale, config.seed
        self.resampling = config.degradation.resampling
        self.pictures = section.pictures
        self.conditions = [PAIR] if section.pairs else evenly(protocol_conditions(config), section.conditions)
        self.photos: list[tuple[str, Tensor]] = []
        self.pairs: list[Sample] = []
        smallest = 2 * self.scale + 11  # the border of the metrics and the window of SSIM
        if config.degradation.type == "real":
            smallest = max(smallest, config.real.largest_kernel // 2 + 1)
        least = -(-smallest // self.scale) * self.scale
        if section.crop is not None and section.crop < least:
            raise ValueError(
                f"validation.crop must be at least {least} px at scale {self.scale}, it was {section.crop}"
            )
        for pair in find_all_pairs(section.pairs, self.scale)[: section.images]:
            sample = centre_pair(read_pair(pair, self.scale, config.degradation.border), section.crop, self.scale)
            if min(sample.hr.shape[2:]) < smallest:
                raise ValueError(f"validation photo {pair.hr} must be at least {smallest} px high and wide")
            self.pairs.append(sample)
            self.photos.append((pair.name, sample.hr))
        for source in find_images(section.sources, recursive=True)[: section.images]:
            hr = crop_to_multiple(centre(to_tensor(read_rgb(source)), section.crop), self.scale)
            if min(hr.shape[2:]) < smallest:
                raise ValueError(f"validation photo {source} must be at least {smallest} px high and wide")
            self.photos.append((source_name(source), hr))
        self.fingerprint = self._fingerprint(config)

    def measure(self, stage: Stage, network: Network, processes: Processes) -> ValidationResult:
        """Measure a stage's network; each process takes a share of the photos, and all get the result."""
        was_training = network.training
        network.eval()
        method, curve, wanted = method_of(stage, network), curve_of(stage, network), self._conditions(stage)
        rows: list[tuple[int, int, float, float, float]] = []
        pictures: list[tuple[str, np.ndarray]] = []
        curves: list[list[float]] = []
        for number, (name, hr) in enumerate(self.photos):
            if number % processes.count != processes.accelerator.process_index:
                continue
            for place, condition in enumerate(wanted):
                sample = self.pairs[number] if condition is PAIR else self._sample(name, hr, condition)
                sr, enlarged = method(sample).cpu(), bicubic(sample.lr, self.scale)
                rows.append((number, place, *self._scores(sr, sample.hr), self._scores(enlarged, sample.hr)[0]))
                if place == 0 and number < self.pictures:
                    pictures.append((name, _side_by_side(enlarged, sr, sample.hr)))
                if place == 0 and curve is not None:
                    curves.append([self._scores(step.cpu(), sample.hr)[0] for step in curve(sample)])
        network.train(was_training)
        rows = sorted(processes.gather(rows))  # one order of summation for any number of processes
        curves = processes.gather(curves)
        return ValidationResult(
            psnr_y=fmean(row[2] for row in rows),
            ssim_y=fmean(row[3] for row in rows),
            psnr_y_bicubic=fmean(row[4] for row in rows),
            curve=[fmean(values) for values in zip(*curves, strict=True)] if curves else None,
            pictures=dict(processes.gather(pictures)),
        )

    def _conditions(self, stage: Stage) -> Sequence[Condition]:
        plain = isinstance(stage, BicubicStage) and stage.degradation is None
        return conditions("bicubic", self.scale) if plain else self.conditions

    def _fingerprint(self, config: TrainConfig) -> str:
        judged = fingerprint_tree(config.model_dump(mode="json", include={"scale", "seed", "degradation", "real"}))
        judged["validation"] = config.validation.model_dump(mode="json", include={"protocol", "conditions"})
        digest = hashlib.sha256(json.dumps(judged).encode())
        for name, hr in self.photos:
            digest.update(f"{name} {tuple(hr.shape)}".encode())
            digest.update(hr.contiguous().numpy().tobytes())
        for sample in self.pairs:
            digest.update(sample.lr.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _sample(self, name: str, hr: Tensor, condition: Condition) -> Sample:
        return make_sample(hr, condition, self.scale, image=name, seed=self.seed, **self.resampling)

    def _scores(self, sr: Tensor, hr: Tensor) -> tuple[float, float]:
        sr = sr.float()
        return float(psnr_y(sr, hr, self.scale)), float(ssim_y(sr, hr, self.scale))


def method_of(stage: Stage, network: Network) -> Method:
    """The way ``network``, the stage's or the average of it, upscales a validation photo.

    The MLN of stage 1b and that of a teacher are adapted to the photo and its HR.
    """
    if isinstance(network, BlindNetwork):
        return student_method(network)
    if isinstance(network, MRDAOracle):
        return oracle_method(network)
    if isinstance(network, MRDATeacher):
        if stage.adapter is None:
            return teacher_method(network, None)
        options = stage.adapter.options
        return teacher_method(
            network,
            stage.adapter.mln,
            steps=options.inner_steps,
            inner_lr=options.inner_lr,
            clip=options.inner_clip,
            freeze_upscaler=stage.adapter.freeze_upscaler,
        )
    if not isinstance(stage, MetaStage):
        return mln_method(network, steps=0)
    section = stage.section
    return mln_method(
        network,
        steps=section.inner_steps,
        inner_lr=section.inner_lr,
        clip=section.inner_clip,
        freeze_upscaler=stage.freeze_upscaler,
    )


def curve_of(stage: Stage, network: Network) -> Callable[[Sample], list[Tensor]] | None:
    """For stage 1b: a function from a sample to the MLN's SR after 0, 1, ... `CURVE_STEPS` steps of adaptation."""
    if not isinstance(stage, MetaStage):
        return None
    assert isinstance(network, MLN)
    section = stage.section
    return mln_steps(
        network,
        steps=CURVE_STEPS,
        inner_lr=section.inner_lr,
        clip=section.inner_clip,
        freeze_upscaler=stage.freeze_upscaler,
    )


def protocol_conditions(config: TrainConfig) -> list[Condition]:
    """Degradations of `validation.protocol`; ``auto`` follows the degradations of the training."""
    protocol = config.validation.protocol
    if protocol != "auto":
        return list(conditions(protocol, config.scale))
    if config.degradation.type == "real":
        degradation = build_real_degradation(config, None)
        return [
            Condition(f"real {number}", None, degradation=degradation) for number in range(config.validation.conditions)
        ]
    kernel = config.degradation.kernel
    if kernel == "anisotropic":
        noisy = config.degradation.noise_range[1] > 0
        return [condition for condition in conditions("mrda9", config.scale) if noisy or condition.noise_level == 0]
    return list(conditions("gaussian8" if kernel == "isotropic" else "bicubic", config.scale))


def evenly(items: Sequence[Condition], count: int) -> list[Condition]:
    """At most ``count`` of the items, evenly spaced; from two on the first and the last are among them."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


def centre(image: Tensor, size: int | None) -> Tensor:
    """The centre (1, C, size, size) of an image, smaller if the image is smaller; the whole image for None."""
    if size is None:
        return image
    top, left = (max(0, (length - size) // 2) for length in image.shape[2:])
    return image[..., top : top + size, left : left + size]


def centre_pair(sample: Sample, size: int | None, scale: int) -> Sample:
    """The centre of a pair, ``size`` HR pixels or less, cut at LR's pixels; all of it for None."""
    if size is None:
        return sample
    lr = centre(sample.lr, size // scale)
    top, left = (max(0, (whole - length) // 2) for whole, length in zip(sample.lr.shape[2:], lr.shape[2:], strict=True))
    rows = slice(scale * top, scale * (top + lr.shape[2]))
    columns = slice(scale * left, scale * (left + lr.shape[3]))
    return sample._replace(lr=lr, lr_up=sample.lr_up[..., rows, columns], hr=sample.hr[..., rows, columns])


def _side_by_side(*images: Tensor) -> np.ndarray:
    row = torch.cat([image[0].float().clamp(0, 1) for image in images], dim=2)
    return (255 * row).round().to(torch.uint8).numpy()
