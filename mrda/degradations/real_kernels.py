"""Blur kernels of the second-order degradation: three families of two widths each, and sinc filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
SMALLEST = 7
"""Side of the smallest kernels."""

_SINC = len(FAMILIES)  # in the place of a family's number
_GENERALIZED, _PLATEAU = 1, 2  # what a family's number // 2 says; odd numbers are anisotropic


@dataclass(frozen=True)
class KernelShapes:
    """Parameters of n kernels; all tensors are (n,).

    Attributes:
        family: Index into `FAMILIES`, or their number for a sinc filter.
        size: Odd side within which a kernel is not zero; 1 is the identity.
        sigma1: Width along the first axis in pixels.
        sigma2: Along the second.
        theta: Angle from the x to the first axis in radians.
        beta: Exponent of generalised and plateau-shaped kernels; 1 for plain ones.
        cutoff: Of sinc filters, in radians per pixel.
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
        sinc filter is c J1(c r) / (2 pi r) at the cutoff c: of all frequencies it keeps those below, in any direction.
        Torch's J1 makes it right to 1e-7 only, about what float32 holds.
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
        """Say what one of the kernels is; waits for the device."""
        number, size = int(self.family[index]), int(self.size[index])
        if size == 1:
            return "none"
        if number == _SINC:
            return f"sinc {size}x{size}, cutoff {float(self.cutoff[index]):.2f}"
        words = f"{FAMILIES[number].replace('_', ' ')} {size}x{size}, sigma {float(self.sigma1[index]):.2f}"
        if number % 2:
            words += f" x {float(self.sigma2[index]):.2f} at {math.degrees(float(self.theta[index])) % 180:.0f} degrees"
        return words if number // 2 == 0 else f"{words}, beta {float(self.beta[index]):.2f}"


@dataclass(frozen=True)
class KernelOptions:
    """What the kernels of one round are drawn from, under the names of Real-ESRGAN's option files."""

    blur_kernel_size: int
    kernel_list: tuple[str, ...]
    kernel_prob: tuple[float, ...]
    sinc_prob: float
    blur_sigma: tuple[float, float]
    betag_range: tuple[float, float]
    betap_range: tuple[float, float]

    DRAWS: ClassVar[int] = 9
    """Uniform numbers that a kernel takes."""

    def shapes(self, uniform: Sequence[Tensor]) -> KernelShapes:
        """Turn `DRAWS` tensors (n,) of numbers in [0, 1), float64, into the parameters of n kernels."""
        as_sinc, size, family, sigma1, sigma2, theta, side_of_one, beta, cutoff = uniform
        size = _sizes(self.blur_kernel_size, size)
        family = self._families(family)
        shape, isotropic = family // 2, family % 2 == 0
        family = torch.where(as_sinc < self.sinc_prob, _SINC, family)
        sigma1, sigma2 = between(self.blur_sigma, sigma1), between(self.blur_sigma, sigma2)
        beta = torch.where(
            shape == _GENERALIZED,
            _exponents(self.betag_range, side_of_one, beta),
            torch.where(shape == _PLATEAU, _exponents(self.betap_range, side_of_one, beta), 1.0),
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
            side=self.blur_kernel_size,
        )

    def _families(self, uniform: Tensor) -> Tensor:
        weights = dict.fromkeys(FAMILIES, 0.0)
        for name, weight in zip(self.kernel_list, self.kernel_prob, strict=True):
            weights[name] += weight
        total, reached = sum(weights.values()), 0.0
        family = torch.zeros_like(uniform, dtype=torch.long)
        last = max(index for index, weight in enumerate(weights.values()) if weight)
        for weight in list(weights.values())[:last]:
            reached += weight
            family += uniform * total >= reached
        return family


FINAL_DRAWS = 3
"""Uniform numbers that a final sinc filter takes."""


def final_shapes(final_sinc_prob: float, uniform: Sequence[Tensor]) -> KernelShapes:
    """Turn `FINAL_DRAWS` tensors (n,) of numbers in [0, 1), float64, into n sinc filters or identities."""
    used, size, cutoff = uniform
    one = torch.ones_like(used)
    return KernelShapes(
        family=torch.full_like(used, _SINC, dtype=torch.long),
        size=torch.where(used < final_sinc_prob, _sizes(21, size), 1),
        sigma1=one,
        sigma2=one,
        theta=torch.zeros_like(used),
        beta=one,
        cutoff=between((math.pi / 3, math.pi), cutoff),
        side=21,
    )


def between(bounds: tuple[float, float], uniform: Tensor) -> Tensor:
    """Stretch numbers in [0, 1) to a range."""
    low, high = bounds
    return low + (high - low) * uniform


def _sizes(largest: int, uniform: Tensor) -> Tensor:
    """One of 7, 9, ... up to the largest."""
    return SMALLEST + 2 * (uniform * ((largest - SMALLEST) // 2 + 1)).long()


def _exponents(bounds: tuple[float, float], side: Tensor, uniform: Tensor) -> Tensor:
    """Half of them below 1 and half above; over the whole range where it does not hold 1."""
    low, high = bounds
    if not low <= 1 <= high:
        return between(bounds, uniform)
    return torch.where(side < 0.5, between((low, 1.0), uniform), between((1.0, high), uniform))
