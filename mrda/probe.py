"""How blurred a photo looks to a network: its degradation representation beside those of known blurs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrda.degradations.classic import SIGMA_RANGES, crop_to_multiple, degrade
from mrda.degradations.kernels import KERNEL_SIZE, isotropic_gaussian
from mrda.networks import MRDAStudent, read_metadata

STEPS = 8
"""Blurs that are tried, evenly spaced over the training range of the network's scale."""


@dataclass(frozen=True)
class BlurEstimate:
    """An estimate of a photo's blur.

    Attributes:
        sigma: of the nearest Gaussian, its standard deviation in HR pixels.
        distances: from the photo's raw IDR to that of each known blur, by the blur's sigma.
    """

    sigma: float
    distances: dict[float, float]


@torch.no_grad()
def estimate_blur(network: MRDAStudent, lr: Tensor) -> BlurEstimate | None:
    """Find the isotropic Gaussian blur whose IDR is nearest to that of a photo.

    Known blurs are made from the photo itself, taken as HR.

    Args:
        network: the student, which reads the IDR.
        lr: the photo, (1, 3, H, W) in [0, 1].

    Returns:
        The estimate; None where the photo is too small to be blurred and shrunk.
    """
    if min(lr.shape[2:]) < max(KERNEL_SIZE, 8 * network.scale):
        return None
    inputs = lr.to(next(network.parameters()))
    own = network.degradation(inputs)
    hr = crop_to_multiple(inputs, network.scale)
    low, high = SIGMA_RANGES[network.scale]
    distances = {}
    for step in range(STEPS):
        sigma = low + (high - low) * step / (STEPS - 1)
        known = network.degradation(degrade(hr, isotropic_gaussian(sigma).to(hr), network.scale).lr)
        distances[round(sigma, 2)] = float((own - known).norm())
    return BlurEstimate(min(distances, key=distances.__getitem__), distances)


def trained_on(weights: str | Path) -> str:
    """What degradations weights were trained on, in a few words, where their file says so.

    A run's safetensors files have their configuration in the metadata entry "recipe", see
    `mrda.evaluation.methods_loading.recorded_adaptation`.
    """
    unknown = "degradations that their file does not name"
    if Path(weights).suffix in (".pth", ".pt"):
        return unknown
    try:
        recipe = json.loads(read_metadata(weights).get("recipe", "{}"))
        if recipe.get("degradation.type") == "real":
            return "the degradations of real photos: blur, resizing, noise and JPEG, each twice"
        return _classic(recipe)
    except (AttributeError, KeyError, TypeError, ValueError):
        return unknown


def _classic(recipe: dict[str, Any]) -> str:
    kernel = recipe["degradation.kernel"]
    low, high = recipe["degradation.sigma_range"] or SIGMA_RANGES[recipe["scale"]]
    unit = "px" if recipe["degradation.aniso_param"] == "sigma" else "px squared"
    blur = "no blur" if kernel == "none" else f"{kernel} Gaussian blur of {low:g} to {high:g} {unit}"
    weakest, strongest = recipe["degradation.noise_range"]
    noise = f" and noise of {weakest:g} to {strongest:g} / 255" if strongest else ""
    return f"{blur}, bicubic downsampling{noise}"
