"""How LR is made from HR: blur kernels, resampling, noise and 8-bit rounding."""

from mrda.degradations.classic import ClassicDegradation, Degraded, crop_to_multiple, degrade
from mrda.degradations.kernels import anisotropic_gaussian, isotropic_gaussian
from mrda.degradations.pool import ShufflePool
from mrda.degradations.quantize import quantize
from mrda.degradations.real import RealDegradation
from mrda.degradations.resample import bicubic
from mrda.degradations.sharpen import sharpen

__all__ = [
    "ClassicDegradation",
    "Degraded",
    "RealDegradation",
    "ShufflePool",
    "anisotropic_gaussian",
    "bicubic",
    "crop_to_multiple",
    "degrade",
    "isotropic_gaussian",
    "quantize",
    "sharpen",
]
