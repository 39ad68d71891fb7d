# SPDX-License-Identifier: Apache-2.0
"""Upscales a photo for the web page: the result as a file, and the pictures that the page shows."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mrda.app.probe import BlurProbe, make_probe
from mrda.core.progress import Progress
from mrda.networks import MRDAStudent
from mrda.photo.files import read_photo
from mrda.photo.images import ImageArray, read_image, to_eight_bits, to_tensor
from mrda.upscale.batch import upscale_photos
from mrda.upscale.jobs import Job
from mrda.upscale.upscaler import Upscaler

SHOWN_PIXELS = 16_000_000
"""Pixels of the largest result that is shown in full size; browsers are slow with, or refuse, larger ones."""
LOOKED_AT = 512
"""Largest side, in pixels of the photo, of the central part for which blur and modulation map are computed."""


@dataclass(frozen=True)
class Weights:
    """Weights to choose from.

    Attributes:
        upscaler: an upscaler with these weights.
        trained_on: the degradations that they were trained on, in a few words; None if the file does not say.
    """

    upscaler: Upscaler
    trained_on: str | None

    @cached_property
    def probe(self) -> BlurProbe:
        """The blur estimator, created for the first photo because that takes seconds."""
        return make_probe(self.upscaler.network)


@dataclass(frozen=True)
class Enlarged:
    """An upscaled photo, with what the page shows.

    Attributes:
        file: the result, PNG.
        size: its width and height.
        before: the photo enlarged by bicubic interpolation, RGB of the size of `after`.
        after: the result in 8 bits, reduced if it has more than `SHOWN_PIXELS`.
        modulation: the mean of the masks of all RDA convs (Eq. 9), (H, W) in [0, 1] on the grid of the photo's centre;
            None if the network has no masks.
        blur: the estimated standard deviation of a Gaussian blur of the photo's centre, in pixels of the photo enlarged
            by the network's scale; None if the network's estimates are too inaccurate.
        notices: messages for the user, such as what could not be kept, in a few words each.
    """

    file: Path
    size: tuple[int, int]
    before: Image.Image
    after: Image.Image
    modulation: npt.NDArray[np.float32] | None
    blur: float | None
    notices: tuple[str, ...]


def enlarge(
    upscaler: Upscaler,
    source: Path,
    folder: Path,
    *,
    scale: float,
    max_pixels: int,
    probe: BlurProbe,
    progress: Progress | None = None,
) -> Enlarged:
    """Upscale a photo into ``folder``.

    Args:
        upscaler: the upscaler; its warnings become notices.
        source: the photo.
        folder: for the result, which is named after photo and scale.
        scale: enlargement of the result.
        max_pixels: photos with more pixels are refused.
        probe: the blur estimator of the upscaler's network.
        progress: receives the photo, tile by tile as fractions.

    Raises:
        ValueError: the photo can't be read, has too many pixels, needs too much memory, or its result can't be written.
    """
    job = Job(source, folder, Path(f"{source.stem}_x{scale:g}.png"), "png")
    with _logged() as warnings:
        (result,) = upscale_photos(upscaler, [job], scale=scale, workers=1, max_pixels=max_pixels, progress=progress)
    if result.reason is not None:
        # Without the folders, which are those of the server and unknown to the user.
        raise ValueError(result.reason.replace(str(source), source.name).replace(str(job.target), job.target.name))
    photo = read_photo(source, max_pixels)
    lr = _shown(photo.pixels, photo.icc)
    sr = read_image(job.target)
    after = _shown(np.asarray(_reduced(sr)), photo.icc)
    centre = to_tensor(_centre(np.asarray(lr))).to(next(upscaler.network.parameters()))
    with torch.no_grad():
        idr = upscaler.network.degradation(centre)
    return Enlarged(
        file=job.target,
        size=sr.size,
        before=lr.resize(after.size, Image.Resampling.BICUBIC),
        after=after,
        modulation=_modulation(upscaler.network, centre, idr),
        blur=float(probe(idr)) if probe.useful else None,
        notices=(*result.notices, *warnings),
    )


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Collect the messages that this thread logs."""
    messages: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                messages.append(record.getMessage())

    logger, collector = logging.getLogger("mrda"), Collector()
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)


def _shown(pixels: ImageArray, icc: bytes | None) -> Image.Image:
    """Convert to 8-bit RGB, keeping a colour profile of RGB, which browsers apply."""
    image = Image.fromarray(to_eight_bits(pixels)).convert("RGB")
    if icc is not None and icc[16:20] == b"RGB ":
        image.info["icc_profile"] = icc
    return image


def _reduced(image: Image.Image) -> Image.Image:
    ratio = math.sqrt(SHOWN_PIXELS / (image.width * image.height))
    if ratio >= 1:
        return image
    width, height = (max(1, round(ratio * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _centre(pixels: ImageArray) -> ImageArray:
    """Cut out the middle `LOOKED_AT` rows and columns, or as many as there are."""
    top, left = (max(0, side - LOOKED_AT) // 2 for side in pixels.shape[:2])
    return pixels[top : top + LOOKED_AT, left : left + LOOKED_AT]


def _modulation(network: MRDAStudent, lr: Tensor, idr: Tensor) -> npt.NDArray[np.float32] | None:
    if network.rdan.hyperparameters["conv_type"] != "rda":
        return None
    return network.rdan.modulation_map(lr, idr)[0, 0].cpu().numpy()
