# SPDX-License-Identifier: Apache-2.0
"""Options of the second-order degradation, under the names of Real-ESRGAN's option files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mrda.core.checks import (
    Int,
    check_choice,
    check_odd,
    check_positive_range,
    check_probability,
    check_range,
    check_weights,
)

KernelFamily = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
FAMILIES: tuple[KernelFamily, ...] = get_args(KernelFamily)
"""Families of blur kernels: Gaussian, generalised Gaussian and plateau-shaped, each isotropic and anisotropic."""

Codec = Literal["libjpeg", "simulated"]
CODECS: tuple[Codec, ...] = get_args(Codec)

SMALLEST = 7
"""Side of Real-ESRGAN's smallest kernels, in pixels."""
LARGEST = 21
"""Side of Real-ESRGAN's largest kernels and of its final sinc filter, in pixels."""


@dataclass(frozen=True)
class RoundOptions:
    """Options of one round of blur, resizing, noise and JPEG; the defaults are those of the first round.

    Probabilities of several choices are weights: they need not add up to 1.

    Raises:
        TypeError: An option has a wrong type.
        ValueError: An option is outside of its range.
    """

    kernel_list: tuple[KernelFamily, ...] = FAMILIES
    """Families of blur kernels, all of them by default: iso, aniso, generalized_iso, generalized_aniso, plateau_iso,
    plateau_aniso."""
    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Probability of each family in `kernel_list`."""
    blur_kernel_size: Int = LARGEST
    """Side of the largest kernel in pixels, odd and at least 7: one of 7, 9, ... up to it is drawn."""
    sinc_prob: float = 0.1
    """Probability of a sinc filter in place of a kernel of these families."""
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    """Range of the kernels' standard deviations in pixels, of each axis for anisotropic ones; above 0."""
    betag_range: tuple[float, float] = (0.5, 4.0)
    """Range of the exponent of generalised Gaussians, above 0; half of the draws fall on either side of 1."""
    betap_range: tuple[float, float] = (1.0, 2.0)
    """Range of the exponent of plateau-shaped kernels, above 0; half of the draws fall on either side of 1."""
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities of enlarging, shrinking and keeping the size."""
    resize_range: tuple[float, float] = (0.15, 1.5)
    """Smallest and largest factor of the size, above 0: relative to HR in the first round, to LR in the second."""
    gaussian_noise_prob: float = 0.5
    """Probability of Gaussian noise; otherwise the noise is Poisson noise."""
    noise_range: tuple[float, float] = (1.0, 30.0)
    """Range of the Gaussian noise's standard deviation, in units of 1/255."""
    poisson_scale_range: tuple[float, float] = (0.05, 3.0)
    """Range of the factor of Poisson noise."""
    gray_noise_prob: float = 0.4
    """Probability of the same noise in all channels."""
    jpeg_range: tuple[float, float] = (30.0, 95.0)
    """Range of JPEG's quality, within 1 and 100."""

    def __post_init__(self) -> None:
        if not self.kernel_list:
            raise ValueError("kernel_list is empty, but must name a family of kernels")
        for family in self.kernel_list:
            check_choice("kernel_list", family, FAMILIES)
        check_weights("kernel_prob", self.kernel_prob, len(self.kernel_list))
        check_odd("blur_kernel_size", self.blur_kernel_size)
        if self.blur_kernel_size < SMALLEST:
            raise ValueError(f"blur_kernel_size is {self.blur_kernel_size}, but must be at least {SMALLEST}")
        check_probability("sinc_prob", self.sinc_prob)
        check_positive_range("blur_sigma", self.blur_sigma)
        check_positive_range("betag_range", self.betag_range)
        check_positive_range("betap_range", self.betap_range)
        check_weights("resize_prob", self.resize_prob, 3)
        check_positive_range("resize_range", self.resize_range)
        check_probability("gaussian_noise_prob", self.gaussian_noise_prob)
        check_range("noise_range", self.noise_range, minimum=0)
        check_range("poisson_scale_range", self.poisson_scale_range, minimum=0)
        check_probability("gray_noise_prob", self.gray_noise_prob)
        check_range("jpeg_range", self.jpeg_range, minimum=1)
        if self.jpeg_range[1] > 100:
            raise ValueError(f"jpeg_range is {self.jpeg_range!r}, but must be within 1 and 100")


@dataclass(frozen=True)
class SecondRoundOptions(RoundOptions):
    """Options of the second round: those of `RoundOptions`, with milder defaults."""

    blur_sigma: tuple[float, float] = (0.2, 1.5)
    resize_prob: tuple[float, float, float] = (0.3, 0.4, 0.3)
    resize_range: tuple[float, float] = (0.3, 1.2)
    noise_range: tuple[float, float] = (1.0, 25.0)
    poisson_scale_range: tuple[float, float] = (0.05, 2.5)


@dataclass(frozen=True)
class RealOptions:
    """Options of the second-order degradation: two rounds of blur, resizing, noise and JPEG.

    In the second round, the final resizing to LR's size and a sinc filter come either before JPEG or after it.

    Raises:
        TypeError: An option has a wrong type.
        ValueError: An option is outside of its range or not one of its choices.
    """

    first: RoundOptions = RoundOptions()
    """First round."""
    second_blur_prob: float = 0.8
    """Probability that the second round blurs."""
    second: SecondRoundOptions = SecondRoundOptions()
    """Second round."""
    final_sinc_prob: float = 0.8
    """Probability of the final sinc filter."""
    jpeg: Codec = "libjpeg"
    """JPEG codec of both rounds: libjpeg's, or Real-ESRGAN's approximation of it (simulated)."""
    usm: bool = False
    """Make LR from HR that was sharpened by an unsharp mask, as Real-ESRGAN does."""

    def __post_init__(self) -> None:
        check_probability("second_blur_prob", self.second_blur_prob)
        check_probability("final_sinc_prob", self.final_sinc_prob)
        check_choice("jpeg", self.jpeg, CODECS)

    @property
    def largest_kernel(self) -> int:
        """Side of the largest blur kernel of both rounds, in pixels."""
        return max(self.first.blur_kernel_size, self.second.blur_kernel_size)
