# SPDX-License-Identifier: Apache-2.0
"""Blur kernels of the second-order degradation: three shapes, isotropic or anisotropic, and sinc filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrda.options.real import FAMILIES, LARGEST, SMALLEST, RoundOptions

KERNEL_DRAWS = 9
"""Random numbers that a kernel takes."""
FINAL_DRAWS = 3
"""Random numbers that a final sinc filter takes."""

_SINC = len(FAMILIES)  # stands in place of the index of a family
_GENERALIZED, _PLATEAU = 1, 2  # the index of a family // 2 is its shape; odd indices are anisotropic


@dataclass(frozen=True)
class KernelShapes:
    """Parameters of n kernels; all tensors are (n,).

    Attributes:
        family: Index into `FAMILIES`, or their number for a sinc filter.
        size: Odd side within which a kernel is not zero; 1 is the identity.
        sigma1: Standard deviation along the first axis in pixels.
        sigma2: Standard deviation along the second axis in pixels.
        theta: Angle from the x to the first axis in radians.
        beta: Exponent of generalised and plateau-shaped kernels; 1 for Gaussian ones.
        cutoff: Cutoff frequency of sinc filters, in radians per pixel.
        side: Odd side of the tensors that hold the kernels.
    """

    family: Tensor
    size: Tensor
    sigma1: Tensor
    sigma2: Tensor
    theta: Tensor
    beta: Tensor
    cutoff: Tensor
    side: int

    def kernels(self) -> Tensor:
        """Compute the kernels: (n, side, side) in float64, each of sum 1, zero beyond its size.

        With Q = v^T Sigma^-1 v, v = (x, y), a generalised Gaussian is exp(-Q^beta / 2), a plateau 1 / (1 + Q^beta). A
        sinc filter is c J1(c r) / (2 pi r): it keeps the frequencies below the cutoff c, in every direction. Torch's
        J1 limits its accuracy to about 1e-7, that of float32.
        """
        places = torch.arange(self.side, dtype=torch.float64, device=self.size.device) - self.side // 2
        y, x = places[:, None], places
        cos, sin = (wave[:, None, None] for wave in (self.theta.cos(), self.theta.sin()))
        sigma1, sigma2, beta, cutoff = (
            value[:, None, None] for value in (self.sigma1, self.sigma2, self.beta, self.cutoff)
        )
        family = self.family[:, None, None]
        powers = (((x * cos + y * sin) / sigma1) ** 2 + ((y * cos - x * sin) / sigma2) ** 2) ** beta
        kernels = torch.where(family // 2 == _PLATEAU, 1 / (1 + powers), torch.exp(-0.5 * powers))

        radii = torch.sqrt(x**2 + y**2)
        rings = cutoff * torch.special.bessel_j1(cutoff * radii) / (2 * math.pi * radii.clamp(min=1))
        sinc = torch.where(radii == 0, cutoff**2 / (4 * math.pi), rings)

        inside = torch.maximum(x.abs(), y.abs()) <= self.size[:, None, None] // 2
        kernels = torch.where(family == _SINC, sinc, kernels) * inside
        return kernels / kernels.sum(dim=(1, 2), keepdim=True)

    def describe(self, index: int = 0) -> str:
        """Describe one of the kernels in a few words; waits for the device."""
        number, size = int(self.family[index]), int(self.size[index])
        if size == 1:
            return "none"
        if number == _SINC:
            return f"sinc {size}x{size}, cutoff {float(self.cutoff[index]):.2f}"
        words = f"{FAMILIES[number].replace('_', ' ')} {size}x{size}, sigma {float(self.sigma1[index]):.2f}"
        if number % 2:
            words += f" x {float(self.sigma2[index]):.2f} at {math.degrees(float(self.theta[index])) % 180:.0f} degrees"
        return words if number // 2 == 0 else f"{words}, beta {float(self.beta[index]):.2f}"


def draw_kernels(options: RoundOptions, uniform: Sequence[Tensor]) -> KernelShapes:
    """Turn `KERNEL_DRAWS` tensors (n,) of numbers in [0, 1), float64, into the parameters of n kernels."""
    as_sinc, size, family, sigma1, sigma2, theta, side_of_one, beta, cutoff = uniform
    size = _sizes(options.blur_kernel_size, size)
    family = _families(options, family)
    shape, isotropic = family // 2, family % 2 == 0
    family = torch.where(as_sinc < options.sinc_prob, _SINC, family)
    sigma1, sigma2 = between(options.blur_sigma, sigma1), between(options.blur_sigma, sigma2)
    beta = torch.where(
        shape == _GENERALIZED,
        _exponents(options.betag_range, side_of_one, beta),
        torch.where(shape == _PLATEAU, _exponents(options.betap_range, side_of_one, beta), 1.0),
    )
    # Small filters cannot cut off lower frequencies.
    lowest = torch.where(size < 13, math.pi / 3, torch.full_like(cutoff, math.pi / 5))
    return KernelShapes(
        family=family,
        size=size,
        sigma1=sigma1,
        sigma2=torch.where(isotropic, sigma1, sigma2),
        theta=torch.where(isotropic, 0.0, between((-math.pi, math.pi), theta)),
        beta=beta,
        cutoff=lowest + (math.pi - lowest) * cutoff,
        side=options.blur_kernel_size,
    )


def _families(options: RoundOptions, uniform: Tensor) -> Tensor:
    """Pick indices into `FAMILIES` by their weights."""
    weights = dict.fromkeys(FAMILIES, 0.0)
    for name, weight in zip(options.kernel_list, options.kernel_prob, strict=True):
        weights[name] += weight
    total, reached = sum(weights.values()), 0.0
    family = torch.zeros_like(uniform, dtype=torch.long)
    last = max(index for index, weight in enumerate(weights.values()) if weight)
    for weight in list(weights.values())[:last]:
        reached += weight
        family += uniform * total >= reached
    return family


def draw_final(final_sinc_prob: float, uniform: Sequence[Tensor]) -> KernelShapes:
    """Turn `FINAL_DRAWS` tensors (n,) of numbers in [0, 1), float64, into n sinc filters or identities."""
    used, size, cutoff = uniform
    one = torch.ones_like(used)
    return KernelShapes(
        family=torch.full_like(used, _SINC, dtype=torch.long),
        size=torch.where(used < final_sinc_prob, _sizes(LARGEST, size), 1),
        sigma1=one,
        sigma2=one,
        theta=torch.zeros_like(used),
        beta=one,
        cutoff=between((math.pi / 3, math.pi), cutoff),
        side=LARGEST,
    )


def between(bounds: tuple[float, float], uniform: Tensor) -> Tensor:
    """Stretch numbers in [0, 1) to a range."""
    low, high = bounds
    return low + (high - low) * uniform


def _sizes(largest: int, uniform: Tensor) -> Tensor:
    """Pick odd sizes from `SMALLEST` to ``largest``."""
    return SMALLEST + 2 * (uniform * ((largest - SMALLEST) // 2 + 1)).long()


def _exponents(bounds: tuple[float, float], side: Tensor, uniform: Tensor) -> Tensor:
    """Pick exponents, half of them below 1 and half above; evenly if the range does not contain 1."""
    low, high = bounds
    if not low <= 1 <= high:
        return between(bounds, uniform)
    return torch.where(side < 0.5, between((low, 1.0), uniform), between((1.0, high), uniform))
