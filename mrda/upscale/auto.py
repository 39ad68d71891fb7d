# SPDX-License-Identifier: Apache-2.0
"""Upscaling each photo with the weights of the package that suit it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, JpegImagePlugin

from mrda.photo.decoding import pixels_of
from mrda.photo.images import ImageArray, to_array, to_eight_bits, to_tensor
from mrda.photo.lanczos import resample
from mrda.photo.metadata import jpeg_quality
from mrda.photo.photo import Photo
from mrda.photo.transparency import fill_transparent
from mrda.upscale.choice import PURPOSES, Choice, choose
from mrda.upscale.strength import pair_of
from mrda.upscale.upscaler import Upscaler

ImageT = TypeVar("ImageT", Image.Image, np.ndarray)


class AutoUpscaler:
    """Blind super-resolution by the weights of the package that suit each photo; see `mrda.upscale.choice`.

    Weights are loaded when the first photo needs them, and kept. It may be called from several threads at once.

    Args:
        device: device to compute on; None chooses CUDA if there is such a device.
        **options: the other arguments of `Upscaler`.

    Example:
        >>> upscaler = AutoUpscaler()
        >>> upscaler(Image.open("photo.jpg")).save("photo_x4.png")
    """

    def __init__(self, *, device: torch.device | str | None = None, **options: Any) -> None:
        self._options = {"device": device, **options}
        self._loaded: dict[str, Upscaler] = {}
        self._loading = threading.Lock()

    @property
    def scale(self) -> int:
        """Enlargement of height and width, the same for all weights."""
        return self.upscaler(next(iter(PURPOSES))).scale

    def upscaler(self, weights: str) -> Upscaler:
        """Return the upscaler with some of the package's weights, at the strength of their purpose.

        Args:
            weights: a name of `mrda.upscale.choice.PURPOSES`.

        Raises:
            ValueError: the package's file is damaged or missing.
        """
        with self._loading:
            if weights not in self._loaded:
                self._loaded[weights] = Upscaler.from_pretrained(
                    weights, strength=PURPOSES[weights].strength if pair_of(weights) else None, **self._options
                )
            return self._loaded[weights]

    def bands(
        self, photo: Photo, choice: Choice, height: int, width: int, progress: Callable[[float], None] | None = None
    ) -> Iterator[ImageArray]:
        """Upscale a photo from top to bottom as was chosen; resample to a size that is not that of the weights.

        Args:
            photo: the photo.
            choice: from `mrda.upscale.choice.choose`.
            height: rows of the result.
            width: columns of the result.
            progress: as for `Upscaler`.
        """
        if choice.weights is None:
            return resample([_filled(photo.pixels)], photo.pixels.shape[:2], (height, width))
        return self.upscaler(choice.weights).bands_of_size(photo.pixels, height, width, progress)

    def __call__(self, image: ImageT, *, progress: Callable[[float], None] | None = None) -> ImageT:
        """Upscale an image.

        Args:
            image: a Pillow image or a numpy array of uint8 or uint16, as `Upscaler` takes them. The quality of a JPEG
                is known only from an image that has just been opened; otherwise it is estimated.
            progress: as for `Upscaler`.

        Returns:
            The image, `scale` times as high and wide, as `Upscaler` returns it.

        Raises:
            TypeError: another kind of image or dtype.
            ValueError: as for `Upscaler`.
        """
        if isinstance(image, Image.Image):
            quality = jpeg_quality(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
            photo = Photo(pixels_of(image), jpeg_quality=quality)
        elif isinstance(image, np.ndarray) and image.dtype.newbyteorder("=") in (np.uint8, np.uint16):
            photo = Photo(image)
        else:
            kind = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise TypeError(f"image is {kind}, but must be a Pillow image, or an array of uint8 or uint16")
        choice = choose(photo)
        if choice.weights is not None:
            return self.upscaler(choice.weights)(image, progress=progress)
        height, width = (self.scale * side for side in photo.pixels.shape[:2])
        array = np.concatenate(list(self.bands(photo, choice, height, width)))
        if isinstance(image, np.ndarray):
            return array
        enlarged = Image.fromarray(array if array.ndim == 2 else to_eight_bits(array))
        enlarged.info |= {key: value for key, value in image.info.items() if key in ("icc_profile", "dpi")}
        return enlarged


def _filled(pixels: ImageArray) -> ImageArray:
    """Give fully transparent pixels the colour of their surroundings."""
    if pixels.ndim < 3 or pixels.shape[2] not in (2, 4):
        return pixels
    colour, alpha = to_tensor(pixels).tensor_split([pixels.shape[2] - 1], dim=1)
    return to_array(torch.cat([fill_transparent(colour, alpha), alpha], dim=1), pixels.dtype)
