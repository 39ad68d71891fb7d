# SPDX-License-Identifier: Apache-2.0
"""Degradations, which make LR from HR: blur kernels, resampling, noise, JPEG and 8-bit rounding."""

from mrda.degradations.classic import ClassicDegradation, Degraded, crop_to_multiple, degrade
from mrda.degradations.kernels import anisotropic_gaussian, isotropic_gaussian
from mrda.degradations.pool import ShufflePool
from mrda.degradations.quantize import quantize
from mrda.degradations.real import RealDegradation
from mrda.degradations.resample import bicubic
from mrda.degradations.sharpen import sharpen
from mrda.options.classic import ClassicOptions, CommonOptions
from mrda.options.real import RealOptions, RoundOptions, SecondRoundOptions

__all__ = [
    "ClassicDegradation",
    "ClassicOptions",
    "CommonOptions",
    "Degraded",
    "RealDegradation",
    "RealOptions",
    "RoundOptions",
    "SecondRoundOptions",
    "ShufflePool",
    "anisotropic_gaussian",
    "bicubic",
    "crop_to_multiple",
    "degrade",
    "isotropic_gaussian",
    "quantize",
    "sharpen",
]
