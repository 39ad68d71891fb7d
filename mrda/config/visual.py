# SPDX-License-Identifier: Apache-2.0
"""The visual loss of the networks for real photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mrda.config.base import PositiveFloat, PositiveInt, Section, Weight
from mrda.options.networks import DiscriminatorOptions

LAYER_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
)
"""Layers of VGG19 in Real-ESRGAN's perceptual loss, all before their ReLU, and their weights."""


class VisualConfig(Section):
    """The visual loss L1 + perceptual + adversarial, in stages that have a `visual_from`."""

    l1_weight: Weight = 1.0
    """Weight of the L1 loss."""
    perceptual_weight: Weight = 1.0
    """Weight of the perceptual loss, a distance between VGG19 features; with 0, VGG19's weights are not required."""
    perceptual_layers: dict[str, Weight] = dict(LAYER_WEIGHTS)
    """Weights of VGG19's layers, before their ReLU."""
    vgg19: Path | None = None
    """Torchvision's published vgg19-dcbb9e9d.pth; null: look for it in torch's hub cache."""
    gan_weight: Weight = 0.1
    """Weight of the adversarial loss; with 0, there is no discriminator."""
    num_feat: PositiveInt = DiscriminatorOptions.num_feat
    """Channels of the U-Net discriminator."""
    discriminator_lr: PositiveFloat = 1e-4
    """Learning rate of the discriminator when the visual loss begins; from then on it stays in proportion to that of
    the stage."""
    l1_gt_usm: bool = False
    """Compare SR with the sharpened HR in the L1 loss; requires `real.usm`."""
    percep_gt_usm: bool = False
    """Compare SR with the sharpened HR in the perceptual loss; requires `real.usm`."""
    gan_gt_usm: bool = False
    """Show the sharpened HR to the discriminator as real; requires `real.usm`."""

    @property
    def sharpened(self) -> bool:
        """True if a loss requires the sharpened HR."""
        return self.l1_gt_usm or self.percep_gt_usm or self.gan_gt_usm
