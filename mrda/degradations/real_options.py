"""Checks of the second-order degradation's options."""

from __future__ import annotations

from collections.abc import Sequence

from mrda.core.checks import check_choice, check_number, check_odd, check_range
from mrda.degradations.real_draw import RoundOptions
from mrda.degradations.real_kernels import FAMILIES, SMALLEST, KernelOptions


def round_options(
    suffix: str,
    *,
    kernel_list: Sequence[str],
    kernel_prob: Sequence[float],
    blur_kernel_size: int,
    sinc_prob: float,
    blur_sigma: tuple[float, float],
    betag_range: tuple[float, float],
    betap_range: tuple[float, float],
    resize_prob: Sequence[float],
    resize_range: tuple[float, float],
    gaussian_noise_prob: float,
    noise_range: tuple[float, float],
    poisson_scale_range: tuple[float, float],
    gray_noise_prob: float,
    jpeg_range: tuple[float, float],
) -> RoundOptions:
    """Check the options of a round, and gather them.

    Args:
        suffix: What their names end in, for the messages: nothing, or "2" in the second round.
        kernel_list: This and all others as `mrda.degradations.real.RealDegradation` describes them.
        kernel_prob: See there.
        blur_kernel_size: See there.
        sinc_prob: See there.
        blur_sigma: See there.
        betag_range: See there.
        betap_range: See there.
        resize_prob: See there.
        resize_range: See there.
        gaussian_noise_prob: See there.
        noise_range: See there.
        poisson_scale_range: See there.
        gray_noise_prob: See there.
        jpeg_range: See there.

    Raises:
        TypeError: An option has a wrong type.
        ValueError: A number is not as described.
    """
    for family in kernel_list:
        check_choice(f"kernel_list{suffix}", family, FAMILIES)
    check_odd(f"blur_kernel_size{suffix}", blur_kernel_size)
    if blur_kernel_size < SMALLEST:
        raise ValueError(f"blur_kernel_size{suffix} is {blur_kernel_size}, but must be at least {SMALLEST}")
    up, down, keep = _check_weights(f"resize_prob{suffix}", resize_prob, 3)
    qualities = check_range(f"jpeg_range{suffix}", jpeg_range, minimum=1)
    if qualities[1] > 100:
        raise ValueError(f"jpeg_range{suffix} is {jpeg_range!r}, but must be within 1 and 100")
    return RoundOptions(
        kernels=KernelOptions(
            blur_kernel_size=blur_kernel_size,
            kernel_list=tuple(kernel_list),
            kernel_prob=_check_weights(f"kernel_prob{suffix}", kernel_prob, len(kernel_list)),
            sinc_prob=check_probability(f"sinc_prob{suffix}", sinc_prob),
            blur_sigma=_check_positive_range(f"blur_sigma{suffix}", blur_sigma),
            betag_range=_check_positive_range(f"betag_range{suffix}", betag_range),
            betap_range=_check_positive_range(f"betap_range{suffix}", betap_range),
        ),
        resize_prob=(up, down, keep),
        resize_range=_check_positive_range(f"resize_range{suffix}", resize_range),
        gaussian_noise_prob=check_probability(f"gaussian_noise_prob{suffix}", gaussian_noise_prob),
        noise_range=check_range(f"noise_range{suffix}", noise_range, minimum=0),
        poisson_scale_range=check_range(f"poisson_scale_range{suffix}", poisson_scale_range, minimum=0),
        gray_noise_prob=check_probability(f"gray_noise_prob{suffix}", gray_noise_prob),
        jpeg_range=qualities,
    )


def check_probability(name: str, value: float) -> float:
    """Return ``value`` as a float; raise unless it is a probability."""
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, but must be within 0 and 1")
    return float(value)


def _check_positive_range(name: str, value: tuple[float, float]) -> tuple[float, float]:
    low, high = check_range(name, value)
    if low <= 0:
        raise ValueError(f"{name} is {value!r}, but must be positive")
    return low, high


def _check_weights(name: str, value: Sequence[float], length: int) -> tuple[float, ...]:
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} is {value!r}, but must be a list of {length} numbers")
    for index, weight in enumerate(value):
        check_number(f"{name}[{index}]", weight)
    if len(value) != length or min(value, default=0) < 0 or not sum(value):
        raise ValueError(f"{name} is {list(value)}, but must hold {length} numbers of at least 0, and not all 0")
    return tuple(map(float, value))
