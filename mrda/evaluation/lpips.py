# SPDX-License-Identifier: Apache-2.0
"""LPIPS 0.1 with VGG16 (Zhang et al., CVPR 2018): the perceptual distance of two images, 0 for equal ones."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from mrda.core.checks import check_pair
from mrda.networks.official import read_official
from mrda.networks.published import PublishedFile, find_published
from mrda.networks.registry import check_tensors
from mrda.networks.vgg import load_vgg

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
_CHANNELS = (64, 128, 256, 512, 512)

LINEAR_WEIGHTS = PublishedFile(
    "LPIPS's linear weights",
    "LPIPS_v0.1_vgg-a78928a0.pth",
    "https://github.com/chaofengc/IQA-Toolbox-Python/releases/download/v0.1-weights/LPIPS_v0.1_vgg-a78928a0.pth",
    "a78928a0",
    "026c5bfab7361259",
)
"""The authors' ``weights/v0.1/vgg.pth``, byte for byte, under the name that PyIQA publishes it by."""

_SMALLEST = 16  # pixels: four poolings
_EPS = 1e-10  # of the features' lengths

# LPIPS subtracts the first from images in [-1, 1] and divides by the second.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """The metric, frozen, on the CPU until it is moved.

    Features of five layers are divided by their length in each pixel; their squared differences are weighted channel by
    channel, averaged over the image, and added up.

    Args:
        vgg16: Torchvision's published vgg16-397923af.pth, or another file with the tensors of its convolutions, under
            any name; None looks for it in torch's hub cache.
        linear: The authors' weights/v0.1/vgg.pth, under any name; None looks for LPIPS_v0.1_vgg-a78928a0.pth in
            torch's hub cache, then into the package ``lpips`` where that is installed. Nothing is downloaded.

    Raises:
        ValueError: A file is not there, cannot be read, or is not the published one.
    """

    def __init__(
        self, vgg16: str | os.PathLike[str] | None = None, linear: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__()
        file = find_published(LINEAR_WEIGHTS, linear, also=_in_the_package(), otherwise="or name the file")
        state = read_official(file)
        keys = [f"lin{index}.model.1.weight" for index in range(len(LAYERS))]
        expected = {key: torch.empty(1, channels, 1, 1) for key, channels in zip(keys, _CHANNELS, strict=True)}
        check_tensors(f"weights {file}", state, expected)
        self.vgg = load_vgg("vgg16", LAYERS, vgg16, otherwise="or name the file")
        self.weights = nn.ParameterList(nn.Parameter(state[key].float(), requires_grad=False) for key in keys)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(_SHIFT).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).reshape(1, 3, 1, 1), persistent=False)
        self.eval()

    @torch.no_grad()
    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the distance, (B,) in float32, of each pair of images (B, 3, H, W) in [0, 1]; no border is left out.

        Args:
            sr: Result; used as it is, neither clipped nor rounded. H and W at least 16.
            hr: Ground truth, of the same shape.

        Raises:
            TypeError: An image is not a floating point tensor.
            ValueError: The images differ in shape, are too small, or are not where the weights are.
        """
        check_pair(sr, hr)
        if min(hr.shape[2:]) < _SMALLEST:
            raise ValueError(f"hr has shape {tuple(hr.shape)}, but must be {_SMALLEST} pixels high and wide for LPIPS")
        with torch.autocast(sr.device.type, enabled=False):
            of_sr, of_hr = self._features(sr), self._features(hr)
            distance = torch.zeros(len(hr), device=hr.device)
            for layer, weight in zip(LAYERS, self.weights, strict=True):
                difference = (_normalised(of_sr.pop(layer)) - _normalised(of_hr.pop(layer))).square_()
                distance += (difference.mul_(weight).sum(dim=1)).mean(dim=(1, 2))
        return distance

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        return self.vgg((2 * image.float() - 1 - self.shift) / self.scale)


def _normalised(features: Tensor) -> Tensor:
    """Features over their length in each pixel."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _EPS)


def _in_the_package() -> list[Path]:
    """Paths of the weights inside the package lpips if it is installed; it need not be importable."""
    package = importlib.util.find_spec("lpips")
    folders = [] if package is None else package.submodule_search_locations or []
    return [Path(folder, "weights", "v0.1", "vgg.pth") for folder in folders]
