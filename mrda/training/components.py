# SPDX-License-Identifier: Apache-2.0
"""The parts that stages are made of, built as the configuration says: networks, degradations, the adapted MLN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from mrda.config import AdaptationConfig, StageName, TrainConfig
from mrda.data.pairs import unpack
from mrda.degradations import ClassicDegradation, Degraded, RealDegradation
from mrda.degradations.pool import ShufflePool
from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, Network, adaptation, load_network
from mrda.networks.trunk import Trunk
from mrda.options.networks import MLNOptions, TrunkOptions

Degradation = Callable[[Tensor, torch.Generator], Degraded]
"""HR (B, 3, H, W) in [0, 1], or patches of pairs, and a random generator -> a degraded batch."""

Mean = Callable[[Sequence[Tensor]], list[Tensor]]
"""Means of tensors over all processes."""

IDR_NORM_MOMENTUM = 0.05
"""Share of a batch in the running statistics of the raw IDRs: batches are small."""

AnyNetwork = TypeVar("AnyNetwork", MLN, MRDATeacher, MRDAOracle)
AnyMRDA = TypeVar("AnyMRDA", MRDATeacher, MRDAStudent)


# Networks


def mln_options(config: TrainConfig) -> MLNOptions:
    """Options of the MLN."""
    return MLNOptions(scale=config.scale, num_feat=config.networks.mln_feat, num_body=config.networks.mln_body)


def mrda_options(config: TrainConfig) -> dict[str, Any]:
    """Keyword arguments that teacher and student share."""
    networks = config.networks
    return networks.part(TrunkOptions).as_dict() | {
        "scale": config.scale,
        "den_width": networks.den_width,
        "mask_channels": networks.mask_channels_of(networks.num_feat),
    }


def build_mln(config: TrainConfig) -> MLN:
    """An untrained MLN, initialised by `networks.mln_init`."""
    mln = MLN(mln_options(config))
    return mln.initialize_he() if config.networks.mln_init == "he" else mln


def build_teacher(config: TrainConfig) -> MRDATeacher | MRDAStudent | MRDAOracle:
    """An untrained teacher; `teacher.den_input` chooses the class."""
    if config.teacher.den_input == "lr":
        return build_student(config)
    if config.teacher.den_input == "kernel":
        return MRDAOracle(**_oracle_options(config))
    return _initialize_den(MRDATeacher(**_teacher_options(config)), config)


def build_student(config: TrainConfig) -> MRDAStudent:
    """An untrained student."""
    return _initialize_den(MRDAStudent(**mrda_options(config)), config)


def build_idr_norm(config: TrainConfig) -> nn.BatchNorm1d | None:
    """The normalisation of raw IDRs by `networks.den_norm`; None if there is none."""
    if config.networks.den_norm == "none":
        return None
    return nn.BatchNorm1d(4 * config.networks.den_width, affine=False, momentum=IDR_NORM_MOMENTUM)


def load_mln(config: TrainConfig, path: Path) -> MLN:
    """Load the MLN of an earlier stage.

    Raises:
        ValueError: the file is unreadable, or holds another architecture or other sizes than ``config``.
    """
    return _load(path, MLN, mln_options(config).as_dict())


def load_teacher(config: TrainConfig, path: Path) -> MRDATeacher | MRDAOracle:
    """Load the teacher of an earlier stage; an oracle if `teacher.den_input` is the blur kernel.

    Raises:
        ValueError: the file is unreadable, or holds another architecture or other sizes than ``config``.
    """
    if config.teacher.den_input == "kernel":
        return _load(path, MRDAOracle, _oracle_options(config))
    return _load(path, MRDATeacher, _teacher_options(config))


LOADERS: Mapping[str, Callable[[TrainConfig, Path], Network]] = {"mln": load_mln, "teacher": load_teacher}
"""Functions that load the input weights of a stage, by the names in `Stage.inputs`."""


def load_initial_weights(network: Network, path: Path) -> None:
    """Load the weights of a file into ``network``; from a network of another class, only those of its RDAN.

    An RDAN of fewer blocks is a start too: its blocks are spread among those of ``network``, and the others begin as
    the identity, so that both compute the same. So is one of another scale: convolutions of its upscaler that
    ``network`` has in another size, or not at all, are left out.

    Raises:
        ValueError: the file is unreadable, its sizes differ from those of ``network``, or the two share no part.
    """
    saved = load_network(path)
    target: Network | Trunk = network
    source: Network | Trunk = saved
    if type(saved) is not type(network):
        if isinstance(saved, MLN) or isinstance(network, MLN):
            raise ValueError(
                f"{path} holds the network {type(saved).__name__}, which a {type(network).__name__} can't start from: "
                "choose weights of the same kind"
            )
        target, source = network.rdan, saved.rdan
    few, many = (each.hyperparameters.get("num_blocks", 0) for each in (source, target))
    free = {"scale": source.scale} | ({"num_blocks": few} if few < many else {})
    _check_options(path, source.hyperparameters, target.hyperparameters | free)
    weights, fresh = source.state_dict(), target.state_dict()
    if source.scale != target.scale:
        weights = _rescaled(weights, fresh)
    target.load_state_dict(_deepened(weights, fresh, few, many) if few < many else weights)


def _rescaled(saved: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``saved`` weights with an upscaler of another scale: its convolutions that both have, the others fresh."""
    upscaler = {key: value for key, value in fresh.items() if "upscaler." in key}
    kept = {key: value for key, value in saved.items() if "upscaler." not in key}
    return kept | {
        key: saved[key] if key in saved and saved[key].shape == value.shape else value
        for key, value in upscaler.items()
    }


def _deepened(saved: Mapping[str, Tensor], fresh: Mapping[str, Tensor], few: int, many: int) -> dict[str, Tensor]:
    """Return ``fresh`` weights of many blocks that compute what ``saved`` ones of few blocks do."""
    places = {number * many // few: number for number in range(few)}
    found = {}
    for key, value in fresh.items():
        before, blocks, rest = key.rpartition("blocks.")
        number, _, name = rest.partition(".")
        if not blocks:
            found[key] = saved[key]
        elif int(number) in places:
            found[key] = saved[f"{before}blocks.{places[int(number)]}.{name}"]
        else:  # its last convolution is at zero, so that the skip around the block is all
            found[key] = torch.zeros_like(value) if name.startswith("conv2.") else value
    return found


def _teacher_options(config: TrainConfig) -> dict[str, Any]:
    den_input = "lr_hr" if config.teacher.den_input == "lr_hr" else "features"
    return {**mrda_options(config), "mln_feat": config.networks.mln_feat, "den_input": den_input}


def _oracle_options(config: TrainConfig) -> dict[str, Any]:
    return {**mrda_options(config), "blur_size": config.degradation.kernel_size}


def upscaler_is_frozen(config: TrainConfig, stage: StageName) -> bool:
    """True if ``stage`` trains neither the MLN's upscaler nor adapts it."""
    stages = {"all": ("meta", "teacher", "student"), "student_only": ("student",), "none": ()}
    return stage in stages[config.freeze_upscaler]


def _initialize_den(network: AnyMRDA, config: TrainConfig) -> AnyMRDA:
    if config.networks.den_init != "torch":
        reads_images = isinstance(network, MRDAStudent) or network.options.den_input == "lr_hr"
        network.den.initialize_he(edges=config.networks.den_init == "edges" and reads_images)
    return network


def _load(path: Path, expect: type[AnyNetwork], options: Mapping[str, Any]) -> AnyNetwork:
    network = cast(AnyNetwork, load_network(path, expect=expect))
    _check_options(path, network.hyperparameters, options)
    return network


def _check_options(path: Path, made_with: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if made_with[key] != value:
            raise ValueError(
                f"the weights {path} were made with {key}={made_with[key]}, but the configuration has {value}"
            )


# Degradations


class PooledDegradation:
    """A degradation whose batches are mixed with earlier ones, as in the training of Real-ESRGAN.

    Args:
        degradation: makes new pairs.
        pool: exchanges them for older ones.
    """

    def __init__(self, degradation: RealDegradation, pool: ShufflePool) -> None:
        self.degradation = degradation
        self.pool = pool

    def __call__(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """Degrade a batch, and return as many pairs from the pool."""
        return self.pool(self.degradation(hr, generator), generator)

    def state_dict(self) -> dict[str, Any]:
        """Return the pairs in the pool."""
        return self.pool.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the pool from `state_dict`."""
        self.pool.load_state_dict(state)


class PairedPatches:
    """Stand-in for a degradation where `data.pairs` has LR already.

    Args:
        scale: the factor between LR and HR.
        border: border of the enlargement of LR, see `mrda.degradations.bicubic`.
    """

    def __init__(self, scale: int, border: str) -> None:
        self.scale, self.border = scale, border

    def __call__(self, patches: Tensor, generator: torch.Generator) -> Degraded:
        """Return the LR and HR of patches of `mrda.data.pairs.PairSampler`, in [0, 1]; nothing is random."""
        lr, hr = unpack(patches, self.scale)
        return Degraded(lr, quantize(bicubic(lr, self.scale, self.border)), None, None, hr)


def build_degradation(config: TrainConfig) -> Degradation:
    """The degradation of the training, by `degradation.type`, or what takes its place for `data.pairs`."""
    if config.data.pairs:
        return PairedPatches(config.scale, config.degradation.border)
    if config.degradation.type == "classic":
        return ClassicDegradation(config.scale, config.degradation)
    degradation = build_real_degradation(config, config.data.patch_size)
    pool = config.real.queue_size
    return PooledDegradation(degradation, ShufflePool(pool)) if pool else degradation


def build_real_degradation(config: TrainConfig, patch_size: int | None) -> RealDegradation:
    """The second-order degradation of the section `real`.

    Args:
        config: the configuration.
        patch_size: side in LR pixels of the patch that is cut out of the result; None keeps all of it.
    """
    return RealDegradation(config.scale, config.real, config.degradation, patch_size=patch_size)


def degradation_keys(config: TrainConfig) -> tuple[str, ...]:
    """Config sections, or options, that the degradation depends on."""
    if config.data.pairs:
        return "degradation.border", "degradation.per"
    return ("degradation",) if config.degradation.type == "classic" else ("degradation", "real")


# The adapted MLN


class Adapter:
    """The meta-learned MLN as stages 2 and 3 use it: adapted to every batch (Algorithm 2).

    By default each adaptation starts from the same weights. With `adaptation.reset_mln: false` the MLN drifts: a step
    starts from the weights at which the adaptations of the step before ended, averaged over its micro-batches.

    Args:
        mln: the MLN, frozen.
        options: options of the adaptation.
        freeze_upscaler: leave its upscaler as it is.
    """

    def __init__(self, mln: MLN, options: AdaptationConfig, *, freeze_upscaler: bool) -> None:
        self.mln = mln
        self.options = options
        self.freeze_upscaler = freeze_upscaler
        self._adapted: list[adaptation.Weights] = []

    @cached_property
    def mln_to_adapt(self) -> MLN:
        """The MLN as it is adapted; made by the first step, when its weights are loaded and on their device."""
        return self.mln.to_adapt(self.freeze_upscaler)

    def features(self, batch: Degraded, sync: Mean | None = None) -> Tensor:
        """D'_T (B, C', H, W) in float32, detached: the features of LR in the MLN adapted to this batch.

        Args:
            batch: LR and HR; the MLN is adapted to them, or to its other images if it has such.
            sync: averages the inner gradients over processes; None adapts to this batch alone.
        """
        per_image, some = self.options.per == "image", slice(self.options.images)
        lr, lr_up, hr = batch.other_lr, batch.other_lr_up, batch.other_hr
        if lr is None or lr_up is None or hr is None:
            lr, lr_up, hr = batch.lr, batch.lr_up, batch.hr
        weights = adaptation.adapt(
            self.mln_to_adapt,
            lr[some],
            lr_up[some],
            hr[some],
            inner_lr=self.options.inner_lr,
            clip=self.options.inner_clip,
            steps=self.options.inner_steps,
            freeze_upscaler=self.freeze_upscaler,
            per_image=per_image,
            sync=sync,
        )
        if not self.options.reset_mln:
            self._adapted.append(weights)
        with torch.no_grad():
            return adaptation.features(self.mln, weights, batch.lr, per_image=per_image).float()

    def after_step(self, mean: Mean) -> None:
        """Move a drifting MLN to the mean of the step's adapted weights.

        Args:
            mean: averages tensors over processes.
        """
        if not self._adapted:
            return
        names = list(self._adapted[0])
        own = [torch.stack([weights[name] for weights in self._adapted]).mean(dim=0) for name in names]
        self._adapted.clear()
        parameters = dict(self.mln.named_parameters())
        with torch.no_grad():
            for name, value in zip(names, mean(own), strict=True):
                parameters[name].copy_(value)

    def after_skipped_step(self) -> None:
        """Forget the adapted weights of a step that is skipped."""
        self._adapted.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights of a drifting MLN; empty if it is reset in every step."""
        return {} if self.options.reset_mln else self.mln.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a drifting MLN from `state_dict`."""
        if not self.options.reset_mln:
            self.mln.load_state_dict(state)
