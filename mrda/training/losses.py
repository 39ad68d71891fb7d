# SPDX-License-Identifier: Apache-2.0
"""The losses: reconstruction, distillation of the raw IDR, and the visual loss (perceptual and adversarial)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrda.config import StageName, TrainConfig
from mrda.config.visual import LAYER_WEIGHTS
from mrda.core.checks import check_choice, check_number, check_pair, check_positive
from mrda.core.randomness import seeded_weights
from mrda.degradations import Degraded
from mrda.networks.discriminator import UNetDiscriminator
from mrda.networks.vgg import check_vgg, load_vgg

Terms = dict[str, Tensor]
"""Scalars by name: ``"loss"``, which is minimised, and its parts."""


_WITHOUT_VGG = "or name the file, or set perceptual_weight: 0"
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def reconstruction(sr: Tensor, hr: Tensor, *, luma: float = 0) -> Tensor:
    """Mean |SR - HR| over all elements of two (B, 3, H, W), in the wider of their dtypes.

    With ``luma``, that share of the loss is the mean difference of BT.601's luma, 0.299 R + 0.587 G + 0.114 B.
    """
    if not luma:
        return F.l1_loss(sr, hr)
    difference = sr - hr
    # Plain factors, because a tensor made here would be copied to a GPU in every step, which a CUDA graph can't do.
    red, green, blue = difference.unbind(dim=1)
    of_luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma * of_luma.abs().mean() + (1 - luma) * difference.abs().mean()


# Distillation


def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    reduction: Literal["batchmean", "mean_elements"],
) -> Tensor:
    """KL(p_T || p_S) of the softmax of the raw IDRs over a temperature (Eq. 4); no factor temperature^2.

    Args:
        student: (B, 4C) raw IDR of the student.
        teacher: (B, 4C) raw IDR of the teacher.
        temperature: divisor of both; positive.
        reduction: ``batchmean`` sums over the 4C elements and averages over the batch (the published code);
            ``mean_elements`` averages over both (Eq. 4 as printed).

    Returns:
        A scalar, not negative.

    Raises:
        TypeError: the temperature is not a number.
        ValueError: the shapes differ or are not (B, 4C), the temperature is not positive, or the reduction is unknown.
    """
    _check_idrs(student, teacher)
    check_positive("temperature", temperature)
    check_choice("reduction", reduction, ("batchmean", "mean_elements"))
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    total = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return total / (student.shape[0] if reduction == "batchmean" else student.numel())


def absolute_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean |z_S - z_T| over batch and elements of the raw IDRs (B, 4C) (Eq. 5).

    Raises:
        ValueError: the shapes differ or are not (B, 4C).
    """
    _check_idrs(student, teacher)
    return F.l1_loss(student, teacher)


def _check_idrs(student: Tensor, teacher: Tensor) -> None:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher have shapes {tuple(student.shape)} and {tuple(teacher.shape)}, "
            "but must be raw IDRs of one shape (B, 4C)"
        )


# Adversarial


def generator_loss(fake: Tensor) -> Tensor:
    """Binary cross entropy of the discriminator's logits on SR to the label real, which the SR network minimises.

    Args:
        fake: logits of any shape, such as (B, 1, H, W), above 0 where SR passes for real.

    Returns:
        The mean over all elements of -log(sigmoid(fake)), a scalar, in float32 at least.
    """
    return F.softplus(-_at_least_float32(fake)).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross entropy of the discriminator's logits to the labels real and fake, added and not halved.

    Args:
        real: logits on HR, of any shape.
        fake: logits on SR, which must be detached, of any shape.

    Returns:
        The mean of -log(sigmoid(real)) plus that of -log(1 - sigmoid(fake)), a scalar, in float32 at least.
    """
    return F.softplus(-_at_least_float32(real)).mean() + F.softplus(_at_least_float32(fake)).mean()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


# Perceptual


class PerceptualLoss(nn.Module):
    """Sum over layers of weight * mean |features of SR - features of HR| in VGG (Johnson et al., 2016).

    Computed in float32 also under autocast. Images are normalised by ImageNet's mean and deviation first. The network
    is frozen; only SR receives gradients.

    Args:
        weights: Torchvision's published file, under any name; None looks for it in torch's hub cache. Nothing is
            downloaded.
        layer_weights: Weight of each layer, by the names in :class:`mrda.networks.vgg.VGG`; 0 leaves a layer out.
        backbone: The network; VGG16 has no conv3_4, conv4_4 and conv5_4, so that layers must be given for it.

    Raises:
        TypeError: A weight is not a number.
        ValueError: The file is not there, cannot be read, or is not the published one; there is no such layer; a weight
            is negative or not finite, or none is positive.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        layer_weights: Mapping[str, float] = LAYER_WEIGHTS,
        backbone: Literal["vgg19", "vgg16"] = "vgg19",
    ) -> None:
        super().__init__()
        self.layer_weights = _positive(layer_weights)
        self.vgg = load_vgg(backbone, list(self.layer_weights), weights, otherwise=_WITHOUT_VGG)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the loss, a float32 scalar, of SR and HR (B, 3, H, W) in [0, 1], H and W at least 16 with conv5_4.

        Raises:
            TypeError: An image is not a floating point tensor.
            ValueError: The images differ in shape, are too small, or are on another device than the weights.
        """
        check_pair(sr, hr)
        with torch.autocast(sr.device.type, enabled=False):
            with torch.no_grad():
                targets = self.vgg(self._normalised(hr))
            features = self.vgg(self._normalised(sr))
            losses = [
                weight * F.l1_loss(features[layer], targets[layer]) for layer, weight in self.layer_weights.items()
            ]
        return torch.stack(losses).sum()

    def _normalised(self, image: Tensor) -> Tensor:
        return (image.float() - self.mean) / self.std


def _positive(layer_weights: Mapping[str, float]) -> dict[str, float]:
    for layer, weight in layer_weights.items():
        check_number(f"weight of layer {layer}", weight)
        if weight < 0:
            raise ValueError(f"weight of layer {layer} is {weight}, but must not be negative")
    positive = {layer: float(weight) for layer, weight in layer_weights.items() if weight}
    if not positive:
        raise ValueError(f"layer_weights are {dict(layer_weights)}, but must have a positive one")
    return positive


# The image loss of teacher and student


class ImageLoss:
    """The loss on SR: L1, and from step `visual_from` of the stage on the visual loss (Eq. 3, weights of Real-ESRGAN).

    With `train.luma`, that share of L1 is computed on luma, in the term `l1` too.

    The discriminator learns in the same backward pass as the network: it sees SR detached, and the network sees it with
    frozen weights, so that the two losses share no gradient. The discriminator stays in evaluation mode; `after_step`
    updates its spectral norms once per step, so that a step is the same for any number of micro-batches and processes.

    Args:
        config: the run's configuration.
        stage: the stage, teacher or student.

    Raises:
        ValueError: VGG's weights are needed, but are missing or are not the published ones.
    """

    def __init__(self, config: TrainConfig, stage: StageName) -> None:
        self.options, self.luma = config.visual, config.train.luma
        self.first = config.visual_step(stage)
        self.perceptual: PerceptualLoss | None = None
        self.discriminator: UNetDiscriminator | None = None
        if self.first is None:
            return
        if self.options.perceptual_weight:
            self.perceptual = PerceptualLoss(
                self.options.weights, self.options.perceptual_layers, self.options.backbone
            )
        if self.options.gan_weight:
            with seeded_weights(config.seed, stage, "discriminator"):
                self.discriminator = UNetDiscriminator(num_feat=self.options.num_feat).eval()

    def networks(self) -> list[nn.Module]:
        """VGG and the discriminator, if the loss has them."""
        return [network for network in (self.perceptual, self.discriminator) if network is not None]

    def is_visual(self, step: int) -> bool:
        """True if the loss of ``step`` is more than L1."""
        return self.first is not None and step >= self.first

    def __call__(self, step: int, sr: Tensor, batch: Degraded) -> Terms:
        """Compute the loss of SR (B, 3, sH, sW) against its HR.

        Returns:
            ``"loss"`` and its parts. With a discriminator, ``"loss"`` is the sum of the network's loss and the
            discriminator's.
        """
        options = self.options
        l1 = reconstruction(sr, _target(batch, options.l1_gt_usm), luma=self.luma)
        if not self.is_visual(step):
            return {"loss": l1, "l1": l1}
        terms, loss = {"l1": l1}, options.l1_weight * l1
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(sr, _target(batch, options.percep_gt_usm))
            loss = loss + options.perceptual_weight * terms["perceptual"]
        if self.discriminator is not None:
            real = _target(batch, options.gan_gt_usm)
            self.discriminator.requires_grad_(False)
            terms["adversarial"] = generator_loss(self.discriminator(sr))
            self.discriminator.requires_grad_(True)
            terms["discriminator"] = discriminator_loss(self.discriminator(real), self.discriminator(sr.detach()))
            loss = loss + options.gan_weight * terms["adversarial"] + terms["discriminator"]
        return {"loss": loss, **terms}

    def after_step(self) -> None:
        """Update the discriminator's spectral norms by one iteration, after the optimizer has moved its weights."""
        if self.discriminator is not None:
            self.discriminator.iterate_spectral_norms()


def check_image_loss(config: TrainConfig, stages: Iterable[StageName]) -> None:
    """Check that `ImageLoss` would find VGG's weights, without loading them.

    Raises:
        ValueError: they are needed, but are missing or are not the published ones.
    """
    options = config.visual
    if options.perceptual_weight and any(config.visual_step(stage) is not None for stage in stages):
        check_vgg(options.backbone, list(_positive(options.perceptual_layers)), options.weights, otherwise=_WITHOUT_VGG)


def _target(batch: Degraded, sharpened: bool) -> Tensor:
    if not sharpened:
        return batch.hr
    assert batch.hr_sharp is not None  # the configuration requires `real.usm` then
    return batch.hr_sharp
