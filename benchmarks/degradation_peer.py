"""The second-order degradation image by image on the CPU, with OpenCV, numpy and scipy, as a data loader would do it.

It is a peer to compare the speed of `mrda.degradations.RealDegradation` with, at its default options, and does the same
work, each step by the fastest call that these libraries offer. What is one draw of a batch there comes from its draw.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import j1

from mrda.degradations.real.draw import RealDraw, RoundDraw

Image = npt.NDArray[np.float32]

FAMILIES = (
    ("gaussian", False),
    ("gaussian", True),
    ("generalized", False),
    ("generalized", True),
    ("plateau", False),
    ("plateau", True),
)
FAMILY_PROB = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
INTERPOLATIONS = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
SCALE = 4


def degrade(hr: Image, draw: RealDraw, rng: np.random.Generator) -> tuple[Image, Image]:
    """Make LR and its enlargement from HR, BGR in [0, 1], (H, W, 3), with sides that are multiples of 4."""
    height, width = hr.shape[:2]
    lr_size = height // SCALE, width // SCALE
    x = blurred(hr, blur_kernel(rng, 3.0))
    x = resized(x, scaled((height, width), draw.first.factor), draw.first.mode)
    x = noisy(x, draw.first, (1, 30), (0.05, 3), rng)
    x = compressed(x, rng)
    if draw.second_blur:
        x = blurred(x, blur_kernel(rng, 1.5))
    x = resized(x, scaled(lr_size, draw.second.factor), draw.second.mode)
    x = noisy(x, draw.second, (1, 25), (0.05, 2.5), rng)
    if not draw.sinc_first:
        x = compressed(x, rng)
    x = resized(x, lr_size, draw.mode)
    if rng.random() < 0.8:
        x = blurred(x, sinc_kernel(int(rng.integers(3, 11)) * 2 + 1, rng.uniform(math.pi / 3, math.pi)))
    if draw.sinc_first:
        x = compressed(x, rng)
    return eight_bits(x), eight_bits(cv2.resize(x, (width, height), interpolation=cv2.INTER_CUBIC))


def blur_kernel(rng: np.random.Generator, widest: float) -> Image:
    """A kernel of one of the six families, or a sinc filter."""
    size = int(rng.integers(3, 11)) * 2 + 1
    if rng.random() < 0.1:
        return sinc_kernel(size, rng.uniform(math.pi / (3 if size < 13 else 5), math.pi))
    shape, anisotropic = FAMILIES[rng.choice(len(FAMILIES), p=FAMILY_PROB)]
    sigma1 = rng.uniform(0.2, widest)
    sigma2, theta = (rng.uniform(0.2, widest), rng.uniform(-math.pi, math.pi)) if anisotropic else (sigma1, 0.0)
    y, x = np.mgrid[:size, :size] - size // 2
    cos, sin = math.cos(theta), math.sin(theta)
    powers = ((x * cos + y * sin) / sigma1) ** 2 + ((y * cos - x * sin) / sigma2) ** 2
    if shape != "gaussian":
        low, high = (0.5, 4.0) if shape == "generalized" else (1.0, 2.0)
        powers = powers ** (rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))
    kernel = 1 / (1 + powers) if shape == "plateau" else np.exp(-0.5 * powers)
    return (kernel / kernel.sum()).astype(np.float32)


def sinc_kernel(size: int, cutoff: float) -> Image:
    """A filter that keeps the frequencies below the cutoff."""
    y, x = np.mgrid[:size, :size] - size // 2
    radii = np.sqrt(x**2 + y**2)
    radii[size // 2, size // 2] = 1
    kernel = cutoff * j1(cutoff * radii) / (2 * math.pi * radii)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).astype(np.float32)


def blurred(x: Image, kernel: Image) -> Image:
    """Filter an image, reflected at its borders."""
    return cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Height and width times a factor."""
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def resized(x: Image, size: tuple[int, int], mode: str) -> Image:
    """Resize an image to a height and width."""
    return x if x.shape[:2] == size else cv2.resize(x, size[::-1], interpolation=INTERPOLATIONS[mode])


def noisy(
    x: Image, draw: RoundDraw, sigmas: tuple[float, float], scales: tuple[float, float], rng: np.random.Generator
) -> Image:
    """Add Gaussian or Poisson noise, gray with a probability of 0.4, and clip."""
    gray = rng.random() < 0.4
    if draw.gaussian:
        shape = (*x.shape[:2], 1) if gray else x.shape
        noise = rng.standard_normal(shape, dtype=np.float32)
        noise *= np.float32(rng.uniform(*sigmas) / 255)
    else:
        source = cv2.cvtColor(x, cv2.COLOR_BGR2GRAY)[..., None] if gray else x
        levels = eight_bit_levels(source)
        peak = 2 ** math.ceil(math.log2(np.count_nonzero(np.bincount(levels.ravel(), minlength=256))))
        clean = levels.astype(np.float32) / 255
        noise = rng.poisson(clean * peak).astype(np.float32)
        noise /= peak
        noise -= clean
        noise *= np.float32(rng.uniform(*scales))
    return np.clip(x + noise, 0, 1)


def compressed(x: Image, rng: np.random.Generator) -> Image:
    """Write a JPEG file in memory, and read it back."""
    quality = round(rng.uniform(30, 95))
    _, file = cv2.imencode(".jpg", eight_bit_levels(x), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(file, cv2.IMREAD_COLOR).astype(np.float32) / 255


def eight_bit_levels(x: Image) -> npt.NDArray[np.uint8]:
    """Round to 8 bits."""
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def eight_bits(x: Image) -> Image:
    """Round to the values of 8 bits."""
    return eight_bit_levels(x).astype(np.float32) / 255
