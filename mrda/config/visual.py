# SPDX-License-Identifier: Apache-2.0
"""The visual loss of the networks for real photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

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
    """Weight of the perceptual loss, a distance between VGG features; with 0, VGG's weights are not required."""
    backbone: Literal["vgg19", "vgg16"] = "vgg19"
    """Network whose features are compared; Real-ESRGAN's is VGG19."""
    perceptual_layers: dict[str, Weight] = dict(LAYER_WEIGHTS)
    """Weights of the backbone's layers, before their ReLU; 0 leaves one out. VGG16's blocks 3 to 5 have three
    convolutions, VGG19's have four."""
    vgg19: Path | None = None
    """Torchvision's published vgg19-dcbb9e9d.pth; null: look for it in torch's hub cache."""
    vgg16: Path | None = None
    """Torchvision's published vgg16-397923af.pth, or another file with its convolutions; null: look for it in torch's
    hub cache."""
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
    def layers(self) -> list[str]:
        """Layers that are compared."""
        return [layer for layer, weight in self.perceptual_layers.items() if weight]

    @property
    def weights(self) -> Path | None:
        """File of the backbone's weights, if one is named."""
        return self.vgg19 if self.backbone == "vgg19" else self.vgg16

    @property
    def sharpened(self) -> bool:
        """True if a loss requires the sharpened HR."""
        return self.l1_gt_usm or self.percep_gt_usm or self.gan_gt_usm
