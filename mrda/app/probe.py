# SPDX-License-Identifier: Apache-2.0
"""Estimates the blur of a photo from a network's degradation representation, calibrated on images of known blur.

The calibration images are dead leaves: overlapping discs of all sizes, whose edges and contrasts are distributed much
like those of photographs, so that no photographs are needed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrda.core.randomness import generator
from mrda.degradations.classic import degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.networks import BlindNetwork
from mrda.networks.checkpoints import further_metadata
from mrda.options.classic import SIGMA_RANGES

SCENES, SIDE, LEAVES = 16, 192, 350
"""Number of dead-leaves images, their width and height in HR pixels, and the leaves of each."""
SIGMAS = 12
"""Number of known blurs, evenly spaced over the range that networks of the scale are trained on."""
SMALLEST_LEAF = 2.0
"""Radius in HR pixels."""
CAMERA_SIGMA = 0.7
"""Blur of the images themselves in HR pixels, because no photograph is as sharp as a drawn edge."""
RIDGE = 10.0
"""Weight of the squared coefficients in the ridge regression, for standardised representations."""
USEFUL = 0.5
"""Largest useful error, relative to that of always guessing the middle of the range."""


@dataclass(frozen=True)
class BlurProbe:
    """Estimates the standard deviation of a Gaussian blur from a raw IDR, by ridge regression.

    Attributes:
        mean: mean IDR over all images and blurs, (D,) float64.
        slope: coefficients of the estimate, in HR pixels per unit of the IDR, (D,) float64.
        sigma_range: the smallest and largest known blur, in HR pixels; estimates are clamped to it.
        error: mean absolute error in HR pixels, on images that were left out of the regression.
    """

    mean: Tensor
    slope: Tensor
    sigma_range: tuple[float, float]
    error: float

    @property
    def useful(self) -> bool:
        """True if the network distinguishes the known blurs, which it may not after a short training."""
        low, high = self.sigma_range
        return self.error < USEFUL * (high - low) / 4

    def __call__(self, idr: Tensor) -> Tensor:
        """Return the estimates (B,), in HR pixels, for raw IDRs (B, D)."""
        estimates = sum(self.sigma_range) / 2 + (idr.double().cpu() - self.mean) @ self.slope
        return estimates.clamp(*self.sigma_range)


@torch.no_grad()
def make_probe(network: BlindNetwork) -> BlurProbe:
    """Calibrate a network's raw IDR on known blurs; takes some seconds on a CPU.

    Args:
        network: the student; the known blurs are those of the classic degradation at its scale.
    """
    low, high = SIGMA_RANGES[network.scale]
    sigmas = torch.linspace(low, high, SIGMAS, dtype=torch.float64)
    scenes = dead_leaves().to(next(network.parameters()))
    kernels = isotropic_gaussian((sigmas**2 + CAMERA_SIGMA**2).sqrt())
    idrs = torch.stack(
        [network.degradation(degrade(scenes, kernel.to(scenes), network.scale).lr) for kernel in kernels]
    )
    idrs = idrs.double().cpu()  # (SIGMAS, SCENES, D)
    half = SCENES // 2
    held_out = _fit(idrs[:, :half], sigmas, math.inf)
    error = (held_out(idrs[:, half:].flatten(0, 1)) - sigmas.repeat_interleave(SCENES - half)).abs().mean()
    return _fit(idrs, sigmas, float(error))


def dead_leaves() -> Tensor:
    """Draw (SCENES, 3, SIDE, SIDE) in [0, 1], always the same images.

    The density of the radii is proportional to r^-3, which makes the images scale-invariant.
    """
    source = generator(0, "dead leaves")
    colours = torch.rand(SCENES, LEAVES + 1, 1, generator=source)
    colours = (colours + (torch.rand(SCENES, LEAVES + 1, 3, generator=source) - 0.5) / 4).clamp(0, 1)
    places = torch.rand(LEAVES, 2, SCENES, 1, 1, generator=source) * SIDE
    least, most = SMALLEST_LEAF**-2, (SIDE / 3) ** -2
    squared_radii = 1 / (least + torch.rand(LEAVES, SCENES, 1, 1, generator=source) * (most - least))
    at = torch.arange(SIDE, dtype=torch.float32)
    uppermost = torch.zeros(SCENES, SIDE, SIDE, dtype=torch.long)
    for leaf, ((y, x), squared_radius) in enumerate(zip(places, squared_radii, strict=True), start=1):
        uppermost[(at[:, None] - y) ** 2 + (at - x) ** 2 < squared_radius] = leaf
    return colours[torch.arange(SCENES)[:, None, None], uppermost].permute(0, 3, 1, 2)


def _fit(idrs: Tensor, sigmas: Tensor, error: float) -> BlurProbe:
    """Regress the blurs (K,) on their IDRs (K, N, D)."""
    samples = idrs.flatten(0, 1)
    mean, spread = samples.mean(dim=0), samples.std(dim=0).clamp(min=torch.finfo(samples.dtype).tiny)
    standardised = (samples - mean) / spread
    low, high = float(sigmas[0]), float(sigmas[-1])
    targets = sigmas.repeat_interleave(idrs.shape[1]) - (low + high) / 2
    squares = standardised.T @ standardised + RIDGE * torch.eye(len(mean), dtype=samples.dtype)
    return BlurProbe(mean, torch.linalg.solve(squares, standardised.T @ targets) / spread, (low, high), error)


def trained_on(weights: str | Path) -> str | None:
    """Describe the degradations that weights were trained on in a few words; None if their file does not name them.

    The safetensors files of a run have their configuration in the metadata entry "recipe", see
    `mrda.evaluation.methods_loading.recorded_adaptation`.
    """
    try:
        recipe = json.loads(further_metadata(Path(weights)).get("recipe", "{}"))
        if recipe.get("degradation.type") == "real":
            return "simulated real degradations: blur, resizing, noise and JPEG, each applied twice"
        return _classic(recipe)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _classic(recipe: dict[str, Any]) -> str:
    kernel = recipe["degradation.kernel"]
    low, high = recipe["degradation.sigma_range"] or SIGMA_RANGES[recipe["scale"]]
    unit = "px" if recipe["degradation.aniso_param"] == "sigma" else "px squared"
    blur = "no blur" if kernel == "none" else f"{kernel} Gaussian blur of {low:g} to {high:g} {unit}"
    weakest, strongest = recipe["degradation.noise_range"]
    noise = f" and noise of {weakest:g} to {strongest:g} / 255" if strongest else ""
    return f"{blur}, bicubic downsampling{noise}"
