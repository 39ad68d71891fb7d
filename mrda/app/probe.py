"""How blurred a photo looks to a network: what its degradation representations of known blurs tell of a photo's.

The known blurs are those of dead leaves: discs of all sizes that lie on each other, whose edges and contrasts are
spread much as those of photographs are, so that it takes no photograph.
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
from mrda.degradations.classic import SIGMA_RANGES, degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.networks import MRDAStudent
from mrda.upscale.weights import further_metadata

SCENES, SIDE, LEAVES = 16, 192, 350
"""Scenes of dead leaves, their width and height in HR pixels, the leaves of each."""
SIGMAS = 12
"""Known blurs, evenly spaced over the range in which networks of the scale are trained."""
SMALLEST_LEAF = 2.0
"""Radius in HR pixels."""
CAMERA_SIGMA = 0.7
"""HR pixels by which the scenes are blurred beforehand: no photograph is as sharp as a drawn edge."""
RIDGE = 10.0
"""Weight of the squared coefficients beside the squared errors, of standardised representations."""
USEFUL = 0.5
"""Of the mean error of one who always guesses the middle: with more the probe is no good."""


@dataclass(frozen=True)
class BlurProbe:
    """Estimates the standard deviation of a Gaussian blur from a raw IDR, by ridge regression.

    Attributes:
        mean: of the IDR over all scenes and blurs, (D,) float64.
        slope: HR pixels by which the estimate grows with the IDR, (D,) float64.
        sigma_range: the least and the greatest known blur, in HR pixels; no estimate lies beyond.
        error: mean absolute error, in HR pixels, on scenes that were left out of the regression.
    """

    mean: Tensor
    slope: Tensor
    sigma_range: tuple[float, float]
    error: float

    @property
    def useful(self) -> bool:
        """Whether the network tells the known blurs apart, which one whose training was short may not."""
        low, high = self.sigma_range
        return self.error < USEFUL * (high - low) / 4

    def __call__(self, idr: Tensor) -> Tensor:
        """Return the estimates (B,), in HR pixels, for raw IDRs (B, D)."""
        estimates = sum(self.sigma_range) / 2 + (idr.double().cpu() - self.mean) @ self.slope
        return estimates.clamp(*self.sigma_range)


@torch.no_grad()
def make_probe(network: MRDAStudent) -> BlurProbe:
    """Find out what a network's raw IDR says of blur, in some seconds of a CPU.

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
    """Draw (SCENES, 3, SIDE, SIDE) in [0, 1], the same ones always.

    Radii are distributed as r^-3, which makes scenes that look alike from near and far.
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


def trained_on(weights: str | Path) -> str:
    """What degradations weights were trained on, in a few words, where their file says so.

    A run's safetensors files have their configuration in the metadata entry "recipe", see
    `mrda.evaluation.methods_loading.recorded_adaptation`.
    """
    unknown = "degradations that their file does not name"
    try:
        recipe = json.loads(further_metadata(Path(weights)).get("recipe", "{}"))
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
