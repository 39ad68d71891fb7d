"""The perceptual loss of the real-world networks: distances between VGG19 features (Johnson et al., 2016)."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrda.config.visual import LAYER_WEIGHTS
from mrda.core.checks import check_number, check_pair
from mrda.networks.vgg import check_vgg, load_vgg

_OTHERWISE = "or name the file, or set perceptual_weight: 0"
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Sum over layers of weight * mean |features of SR - features of HR|, in float32 whatever autocast says.

    Images are normalised by ImageNet's mean and deviation first. The network is frozen; gradients reach SR alone.

    Args:
        weights: Torchvision's published vgg19-dcbb9e9d.pth, under whatever name; None looks for it in torch's hub
            cache. Nothing is downloaded.
        layer_weights: Weight of each layer: see :class:`mrda.networks.vgg.VGG` for their names; 0 leaves one out.

    Raises:
        TypeError: A weight is not a number.
        ValueError: The file is not there, cannot be read, or is not the published one; there is no such layer; a weight
            is negative or not finite, or none is positive.
    """

    def __init__(
        self, weights: str | os.PathLike[str] | None = None, layer_weights: Mapping[str, float] = LAYER_WEIGHTS
    ) -> None:
        super().__init__()
        self.layer_weights = _positive(layer_weights)
        self.vgg = load_vgg("vgg19", list(self.layer_weights), weights, otherwise=_OTHERWISE)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the loss, a float32 scalar, of SR and HR (B, 3, H, W) in [0, 1], H and W at least 16 with conv5_4.

        Raises:
            TypeError: An image is not a floating point tensor.
            ValueError: The images differ in shape, are too small, or are not where the weights are.
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


def check_perceptual(weights: str | os.PathLike[str] | None, layer_weights: Mapping[str, float]) -> None:
    """Raise what :class:`PerceptualLoss` would raise, without loading the weights."""
    check_vgg("vgg19", list(_positive(layer_weights)), weights, otherwise=_OTHERWISE)


def _positive(layer_weights: Mapping[str, float]) -> dict[str, float]:
    for layer, weight in layer_weights.items():
        check_number(f"weight of layer {layer}", weight)
        if weight < 0:
            raise ValueError(f"weight of layer {layer} is {weight}, but must not be negative")
    positive = {layer: float(weight) for layer, weight in layer_weights.items() if weight}
    if not positive:
        raise ValueError(f"layer_weights are {dict(layer_weights)}, but must have a positive one")
    return positive
