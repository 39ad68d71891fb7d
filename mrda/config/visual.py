"""The visual loss of the networks for real photos."""

from __future__ import annotations

from pathlib import Path

from mrda.config.base import PositiveFloat, PositiveInt, Section, Weight


class VisualConfig(Section):
    """The visual loss L1 + perceptual + adversarial, in stages that have a `visual_from`."""

    l1_weight: Weight = 1.0
    """Weight of the L1 loss."""
    perceptual_weight: Weight = 1.0
    """Weight of the distance between VGG19 features; 0 needs no VGG19."""
    perceptual_layers: dict[str, Weight] = {
        "conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0
    }  # fmt: skip
    """Weights of VGG19's layers, before their ReLU."""
    vgg19: Path | None = None
    """Torchvision's published vgg19-dcbb9e9d.pth; null looks in torch's hub cache."""
    gan_weight: Weight = 0.1
    """Weight of the adversarial loss; 0 needs no discriminator."""
    num_feat: PositiveInt = 64
    """Channels of the U-Net discriminator."""
    discriminator_lr: PositiveFloat = 1e-4
    """Learning rate of the discriminator when the visual loss begins; from there it falls as that of the stage does."""
    l1_gt_usm: bool = False
    """Compare with the sharpened HR in the L1 loss; needs `real.usm`."""
    percep_gt_usm: bool = False
    """The same in the perceptual loss."""
    gan_gt_usm: bool = False
    """Show the sharpened HR to the discriminator as real."""

    @property
    def sharpened(self) -> bool:
        """Whether any loss needs the sharpened HR."""
        return self.l1_gt_usm or self.percep_gt_usm or self.gan_gt_usm
