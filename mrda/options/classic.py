# SPDX-License-Identifier: Apache-2.0
"""Options of the classic degradation, and those that it shares with that of real photos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mrda.core.checks import Int, check_choice, check_odd, check_range

KERNEL_SIZE = 21
"""Side of the blur kernels in HR pixels, in the paper's training and tests."""
Kernel = Literal["isotropic", "anisotropic", "none"]
AnisoParam = Literal["sigma", "eigen"]
Downsample = Literal["bicubic", "sfold"]
DOWNSAMPLES: tuple[Downsample, ...] = get_args(Downsample)
SIGMA_RANGES = {2: (0.2, 2.0), 3: (0.2, 3.0), 4: (0.2, 4.0)}
"""Range of the blur's standard deviation in training, in HR pixels, by scale."""

Border = Literal["clamp", "mirror"]
"""Rule for the pixels outside the image, see `mrda.degradations.bicubic`."""
BORDERS: tuple[Border, ...] = get_args(Border)
Per = Literal["batch", "image"]
LrUpFrom = Literal["raw", "quantised"]
LR_UP_FROM: tuple[LrUpFrom, ...] = get_args(LrUpFrom)


@dataclass(frozen=True)
class CommonOptions:
    """Options that every degradation has.

    Raises:
        ValueError: An option is not one of its choices.
    """

    per: Per = "batch"
    """Draw one degradation per batch, as adapting the MLN to a batch requires, or one per image."""
    border: Border = "clamp"
    """Border rule of bicubic resampling: repeat the edge, or reflect the image, edge included, as MATLAB does."""
    lr_up_from: LrUpFrom = "raw"
    """Image that is enlarged for the MLN: LR before it is rounded to 8 bits (released code), or after."""

    def __post_init__(self) -> None:
        check_choice("per", self.per, get_args(Per))
        check_choice("border", self.border, BORDERS)
        check_choice("lr_up_from", self.lr_up_from, LR_UP_FROM)


@dataclass(frozen=True)
class ClassicOptions(CommonOptions):
    """Options of the classic degradation.

    Raises:
        TypeError: ``kernel_size`` is not an int, or a range is not a pair of numbers.
        ValueError: An option is not one of its choices, a range is not finite, reversed, or negative where it
            may not be, or ``kernel_size`` is not odd.
    """

    kernel: Kernel = "isotropic"
    """Family of the Gaussian blur kernels; none: no blur."""
    kernel_size: Int = KERNEL_SIZE
    """Side of the blur kernels in HR pixels; odd."""
    sigma_range: tuple[float, float] | None = None
    """Range of the kernels' standard deviations in HR pixels; null: 0.2 to 2, 3, 4 for x2, x3, x4."""
    theta_range: tuple[float, float] = (0.0, math.pi)
    """Range of the rotation of anisotropic kernels in radians."""
    aniso_param: AnisoParam = "sigma"
    """Meaning of `sigma_range` for anisotropic kernels: standard deviations (released code), or eigenvalues of the
    covariance (the paper's wording)."""
    noise_range: tuple[float, float] = (0.0, 0.0)
    """Range of the noise's standard deviation, in units of 1/255."""
    downsample: Downsample = "bicubic"
    """Downsampling after the blur: antialiased bicubic, or the first pixel of every `scale` x `scale` cell (sfold)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("kernel", self.kernel, get_args(Kernel))
        check_odd("kernel_size", self.kernel_size)
        if self.sigma_range is not None:
            check_range("sigma_range", self.sigma_range, minimum=0)
        check_range("theta_range", self.theta_range)
        check_choice("aniso_param", self.aniso_param, get_args(AnisoParam))
        check_range("noise_range", self.noise_range, minimum=0)
        check_choice("downsample", self.downsample, DOWNSAMPLES)
