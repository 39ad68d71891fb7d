"""The second-order degradation in numpy and scipy, float64, one image at a time; nothing here calls mrda."""

import math

import numpy as np

FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def kernel(family, size, sigma1, sigma2, theta, beta, side=21):
    """Kernel of a family, from the covariance matrix, zero-padded to the side."""
    if family.endswith("_iso") or family == "iso":
        sigma2, theta = sigma1, 0.0
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    precision = np.linalg.inv(rotation @ np.diag([sigma1**2, sigma2**2]) @ rotation.T)
    values = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            v = np.array([column - size // 2, row - size // 2])
            power = v @ precision @ v
            if family.startswith("generalized"):
                values[row, column] = math.exp(-0.5 * power**beta)
            elif family.startswith("plateau"):
                values[row, column] = 1 / (1 + power**beta)
            else:
                values[row, column] = math.exp(-0.5 * power)
    return padded(values / values.sum(), side)


def sinc(size, cutoff, side=21):
    from scipy.special import j1

    values = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            r = math.hypot(row - size // 2, column - size // 2)
            values[row, column] = cutoff * j1(cutoff * r) / (2 * math.pi * r) if r else cutoff**2 / (4 * math.pi)
    return padded(values / values.sum(), side)


def padded(values, side):
    return np.pad(values, (side - len(values)) // 2)


def blur(image, kernel):
    """Correlate each channel of (C, H, W); scipy's `mirror` reflects without repeating the edge, again and again."""
    from scipy import ndimage

    return np.stack([ndimage.correlate(plane, kernel, mode="mirror") for plane in image])


def sharpened(image):
    """The unsharp mask of Real-ESRGAN for (C, H, W): 51 pixels, OpenCV's sigma for them, weight 0.5, threshold 10."""
    from scipy import ndimage

    taps = np.exp(-0.5 * ((np.arange(51) - 25) / (0.3 * ((51 - 1) * 0.5 - 1) + 0.8)) ** 2)
    taps /= taps.sum()

    def blurred(planes):
        rows = ndimage.correlate1d(planes, taps, axis=1, mode="mirror")
        return ndimage.correlate1d(rows, taps, axis=2, mode="mirror")

    residual = image - blurred(image)
    share = blurred((np.abs(residual) * 255 > 10).astype(np.float64))
    return share * np.clip(image + 0.5 * residual, 0, 1) + (1 - share) * image
