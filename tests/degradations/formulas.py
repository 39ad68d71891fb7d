"""The classic degradation in numpy and scipy, float64, straight from its formulas; nothing here calls mrda."""

import math

import numpy as np

# Standard deviations in HR pixels.
GAUSSIAN8 = {
    2: [0.8 + 0.8 * i / 7 for i in range(8)],
    3: [1.35, 1.50, 1.65, 1.80, 1.95, 2.10, 2.25, 2.40],
    4: [1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2],
}

# (l1, l2) in HR pixels, theta in degrees.
MRDA9 = [
    (4.0, 1.0, 0),
    (3.5, 1.5, 20),
    (3.0, 2.0, 40),
    (2.5, 2.5, 0),
    (3.0, 2.0, 0),
    (3.5, 1.5, 20),
    (4.0, 1.0, 40),
    (3.5, 2.5, 60),
    (4.0, 4.0, 0),
]
DASR9 = [
    (2.0, 0.2, 0),
    (2.0, 1.0, 10),
    (3.5, 1.5, 30),
    (3.5, 2.0, 45),
    (3.5, 2.0, 90),
    (4.0, 1.5, 120),
    (4.0, 2.0, 135),
    (4.0, 3.0, 165),
    (4.0, 4.0, 180),
]


def isotropic(sigma, size=21):
    x, y = np.meshgrid(np.arange(size) - size // 2, np.arange(size) - size // 2)
    kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def anisotropic(l1, l2, theta, size=21):
    """Density of the normal distribution with covariance R diag(l1^2, l2^2) R^T, x along columns, theta in radians."""
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    precision = np.linalg.inv(rotation @ np.diag([l1**2, l2**2]) @ rotation.T)
    x, y = np.meshgrid(np.arange(size) - size // 2, np.arange(size) - size // 2)
    kernel = np.exp(-0.5 * (precision[0, 0] * x**2 + 2 * precision[0, 1] * x * y + precision[1, 1] * y**2))
    return kernel / kernel.sum()


def blur(image, kernel):
    """Correlate each channel of (C, H, W); scipy's `mirror` reflects without repeating the edge."""
    from scipy import ndimage  # comes with scikit-image; the rest needs numpy alone

    return np.stack([ndimage.correlate(plane, kernel, mode="mirror") for plane in image])


def keys(d, a=-0.5):
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d <= 2 else 0.0


def source(j, n, border):
    """The 0-based pixel that stands for 1-based position j; None for none at all."""
    if border == "clamp":
        return min(max(j, 1), n) - 1
    if border == "drop":
        return j - 1 if 1 <= j <= n else None
    while not 1 <= j <= n:
        j = 1 - j if j < 1 else 2 * n + 1 - j
    return j - 1


def resample_axis(x, ratio, border, a):
    """The definition on the first axis, one output and one tap at a time."""
    n = x.shape[0]
    out = np.zeros((int(n * ratio + 1e-9), *x.shape[1:]))
    shrink = min(ratio, 1.0)
    support = 4 / shrink
    for i in range(1, len(out) + 1):
        u = i / ratio + 0.5 * (1 - 1 / ratio)
        first = math.floor(u - support / 2)
        taps = [j for j in range(first, first + math.ceil(support) + 2) if source(j, n, border) is not None]
        weights = [shrink * keys(shrink * (u - j), a) for j in taps]
        for j, weight in zip(taps, weights, strict=True):
            out[i - 1] += weight / sum(weights) * x[source(j, n, border)]
    return out


def bicubic(x, ratio, border="clamp", a=-0.5):
    """Resample (B, C, H, W), rows first."""
    rows = resample_axis(np.moveaxis(x, 2, 0), ratio, border, a)
    columns = resample_axis(np.moveaxis(rows, 3, 0), ratio, border, a)
    return np.transpose(columns, (2, 3, 1, 0))


def quantise(x):
    return np.rint(np.clip(255 * x, 0, 255)) / 255
