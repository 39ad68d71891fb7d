# SPDX-License-Identifier: Apache-2.0
"""Measure how far the tiles of the page "Try it here" change the picture: python docs/try/overlap.py [PHOTO ...]

For each of the package's weights and each photo a line: the largest change of a value of the picture, of 255, and the
share of pixels that change. Without photos, two of scikit-image's are taken. It computes for minutes.
"""

import sys
from typing import NamedTuple

import numpy as np
import torch
from parts import PAD, TILE

from mrda.networks import BlindNetwork
from mrda.photo.images import ImageArray, read_rgb
from mrda.upscale.choice import PURPOSES
from mrda.upscale.upscaler import Upscaler, load_student

PHOTOS = ("skimage:chelsea", "skimage:coffee")


class Change(NamedTuple):
    """Difference between two pictures."""

    most: int
    """The largest of a value, of 255."""
    share: float
    """Share of the pixels that differ."""


def change(network: BlindNetwork, photo: ImageArray, tile: int = TILE, pad: int = PAD) -> Change:
    """Compare the picture by tiles of ``tile`` pixels, ``pad`` of them around the result, with that of no tiles."""

    def picture(**options: int | None) -> ImageArray:
        upscaler = Upscaler(network, device="cpu", dtype=torch.float32, notify=lambda _: None, **options)
        return upscaler(photo)

    cut = picture(tile=tile - 2 * pad, tile_pad=pad)
    difference = abs(cut.astype(int) - picture(tile=None)).max(axis=-1)
    return Change(int(difference.max()), float(np.mean(difference > 0)))


def main() -> None:
    """Print a line for each of the package's weights and each photo that the command line names."""
    for weights in PURPOSES:
        network = load_student(weights)
        for name in sys.argv[1:] or PHOTOS:
            found = change(network, read_rgb(name))
            often = f"1 in {1 / found.share:,.0f} pixels changes" if found.share else "no pixel changes"
            seen = f"{PAD} of {network.rdan.reach} px"
            print(f"{weights}, {name}, {seen}: {often}, by up to {found.most} of 255", flush=True)


if __name__ == "__main__":
    main()
