# SPDX-License-Identifier: Apache-2.0
"""A degraded photograph, and the type of a method that upscales it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mrda.core.randomness import generator
from mrda.degradations.classic import Degraded, degrade


class Condition(NamedTuple):
    """One fixed degradation: a blur, then downsampling, then noise; or one of another kind."""

    name: str
    kernel: Tensor | None
    """(k, k), or None for no blur."""
    noise_level: float = 0.0
    """Standard deviation of the noise, in units of 1/255."""
    degradation: Callable[[Tensor, torch.Generator], Degraded] | None = None
    """A random degradation in place of blur and noise: a function of HR (1, 3, H, W) and a generator."""


class Sample(NamedTuple):
    """A photograph under one condition; a blind method looks at `lr` alone."""

    lr: Tensor
    """(1, 3, H, W) in [0, 1], 8-bit values."""
    lr_up: Tensor
    """(1, 3, sH, sW) in [0, 1], 8-bit values: LR enlarged by bicubic, the MLN's residual."""
    hr: Tensor
    """(1, 3, sH, sW) in [0, 1]; (1, 3, 0, 0) where there is none, see `mrda.evaluation.unpaired`."""
    kernel: Tensor | None
    """(k, k), or None for no blur."""
    noise_level: float
    """Standard deviation of the noise, in units of 1/255."""
    image: str = ""
    """The photograph's name, where it was degraded here."""
    condition: str = ""
    """The condition's name, likewise."""


Method = Callable[[Sample], Tensor]
"""A sample -> SR (1, 3, sH, sW), on any device."""


def make_sample(
    hr: Tensor,
    condition: Condition,
    scale: int,
    *,
    image: str,
    seed: int = 0,
    downsample: str = "bicubic",
    border: str = "clamp",
    lr_up_from: str = "raw",
) -> Sample:
    """Degrade a photograph.

    Random numbers depend on `seed`, `image` and the condition's name alone, so that a sample does not change with the
    other measurements of a run.

    Args:
        hr: (1, 3, H, W) in [0, 1], H and W multiples of `scale`.
        condition: the degradation.
        scale: 2, 3 or 4.
        image: the photograph's name.
        seed: seed of the noise.
        downsample: see `mrda.degradations.degrade`.
        border: see `mrda.degradations.degrade`.
        lr_up_from: see `mrda.degradations.degrade`.

    Raises:
        ValueError: HR is too small for the kernel, its sides are no multiples of `scale`, or an option is unknown.
    """
    if condition.degradation is not None:
        pair = condition.degradation(hr, generator(seed, "evaluation", image, condition.name, device=hr.device))
        return Sample(pair.lr, pair.lr_up, pair.hr, None, 0.0, image, condition.name)
    noise = generator(seed, "evaluation", image, condition.name) if condition.noise_level else None
    pair = degrade(
        hr,
        condition.kernel,
        scale,
        noise_level=condition.noise_level,
        generator=noise,
        downsample=downsample,
        border=border,
        lr_up_from=lr_up_from,
    )
    return Sample(pair.lr, pair.lr_up, hr, condition.kernel, condition.noise_level, image, condition.name)
