# SPDX-License-Identifier: Apache-2.0
"""Crops that show the most detailed part of a photo."""

import numpy as np
import numpy.typing as npt


def most_detailed_crop(image: npt.NDArray[np.uint8], size: int) -> tuple[int, int, int]:
    """Find the square with the most detail: the greatest sum of absolute gradients of the mean of RGB.

    Args:
        image: (H, W, 3).
        size: side of the square, limited to the shorter side of `image`.

    Returns:
        (top, left, size).
    """
    gray = image.astype(np.float64).mean(axis=2)
    rows, columns = np.gradient(gray)
    size = min(size, *gray.shape)
    integral = np.pad(np.abs(rows) + np.abs(columns), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    strips = integral[size:] - integral[:-size]
    sums = strips[:, size:] - strips[:, :-size]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top), int(left), size
