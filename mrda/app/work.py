# SPDX-License-Identifier: Apache-2.0
"""Upscales a photo for the web page: the result as a file, the pictures that the page shows, what the network saw."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mrda.app.probe import BlurProbe, make_probe
from mrda.core.progress import Progress
from mrda.networks import BlindNetwork, MRDAStudent
from mrda.photo.files import Photo, read_photo
from mrda.photo.images import ImageArray, read_image, to_eight_bits, to_tensor
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.batch import upscale_photos
from mrda.upscale.choice import Choice, choose
from mrda.upscale.jobs import Job
from mrda.upscale.upscaler import Upscaler

SHOWN_PIXELS = 16_000_000
"""Pixels of the largest result that is shown in full size; browsers are slow with, or refuse, larger ones."""
PREVIEW_PIXELS = 1_000_000
"""Pixels of the largest photo that is shown in full size before it is upscaled."""
LOOKED_AT = 512
"""Largest side, in pixels of the photo, of the central part for which blur and modulation map are computed."""
LOOKED_AT_LEAST = 32
"""Smallest side, in pixels of the photo, from which its blur is estimated."""


_AT = threading.Lock()
AUTO_TITLE = "Choose for me"
"""Title of the choice by the photo."""


@dataclass(frozen=True)
class Weights:
    """Weights to choose from, or the choice by the photo.

    Attributes:
        upscaler: an upscaler with these weights.
        trained_on: the degradations that they were trained on, in a few words; None if the file does not say.
        strength: the strength that they are at, between their partner and themselves; None if they have no partner.
        load: makes an upscaler at another strength.
    """

    upscaler: Upscaler | AutoUpscaler
    trained_on: str | None
    strength: float | None = None
    load: Callable[[float], Upscaler] | None = None

    def at(self, strength: float | None) -> Weights:
        """Return the weights at a strength, the last of which are kept; these at None, or if they have no partner."""
        if self.load is None or strength in (None, self.strength):
            return self
        assert strength is not None
        with _AT:
            if (last := self._others.get("last")) is None or last.strength != strength:
                last = self._others["last"] = replace(self, upscaler=self.load(strength), strength=strength)
            return last

    @cached_property
    def _others(self) -> dict[str, Weights]:
        """The last weights that were asked for at another strength."""
        return {}

    @property
    def network(self) -> BlindNetwork:
        """The network of these weights."""
        assert isinstance(self.upscaler, Upscaler)
        return self.upscaler.network

    @cached_property
    def probe(self) -> BlurProbe:
        """The blur estimator, created when it is first asked for because that takes seconds."""
        return make_probe(self.network)


@dataclass(frozen=True)
class Preview:
    """A photo before it is upscaled.

    Attributes:
        picture: the photo in 8-bit RGB, reduced if it has more than `PREVIEW_PIXELS`.
        size: the photo's width and height.
        choice: what suits it.
    """

    picture: Image.Image
    size: tuple[int, int]
    choice: Choice


@dataclass(frozen=True)
class Enlarged:
    """An upscaled photo, with what the page shows.

    Attributes:
        file: the result, PNG.
        size: its width and height.
        before: the photo enlarged by bicubic interpolation, RGB of the size of `after`.
        after: the result in 8 bits, reduced if it has more than `SHOWN_PIXELS`.
        choice: how it was enlarged and why, if that was left to the photo.
        notices: messages for the user, such as what could not be kept, in a few words each.
    """

    file: Path
    size: tuple[int, int]
    before: Image.Image
    after: Image.Image
    choice: Choice | None
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """The view that a network has of a photo's centre.

    Attributes:
        modulation: the mean of the masks of all RDA convs (Eq. 9), (H, W) in [0, 1] on the grid of the photo's centre;
            None if the network has no masks.
        blur: the estimated standard deviation of a Gaussian blur of the photo's centre, in pixels of the photo enlarged
            by the network's scale; None if the network's estimates are too inaccurate, or the photo is too small.
    """

    modulation: npt.NDArray[np.float32] | None
    blur: float | None


def preview(source: Path, max_pixels: int) -> Preview:
    """Read a photo, to show it and what suits it.

    Raises:
        ValueError: the photo can't be read, or has too many pixels.
    """
    photo = _read(source, max_pixels)
    height, width = photo.pixels.shape[:2]
    return Preview(_reduced(_shown(photo.pixels, photo.icc), PREVIEW_PIXELS), (width, height), choose(photo))


def look(weights: Weights, source: Path, max_pixels: int) -> Seen:
    """Compute what a network sees in a photo's centre; the first time takes some seconds more.

    Raises:
        ValueError: the photo can't be read, or has too many pixels.
    """
    network, photo = weights.network, _read(source, max_pixels)
    centre = to_tensor(_centre(np.asarray(_shown(photo.pixels, photo.icc)))).to(next(network.parameters()))
    with torch.no_grad():
        idr = network.degradation(centre)
    blur = None
    if min(centre.shape[2:]) >= LOOKED_AT_LEAST and weights.probe.useful:
        blur = float(weights.probe(idr))
    return Seen(_modulation(network, centre, idr), blur)


def enlarge(
    upscaler: Upscaler | AutoUpscaler,
    source: Path,
    folder: Path,
    *,
    scale: float,
    max_pixels: int,
    progress: Progress | None = None,
) -> Enlarged:
    """Upscale a photo into ``folder``.

    Args:
        upscaler: the upscaler; its warnings become notices.
        source: the photo.
        folder: for the result, which is named after photo and scale.
        scale: enlargement of the result.
        max_pixels: photos with more pixels are refused.
        progress: receives the photo, part by part as fractions.

    Raises:
        ValueError: the photo can't be read, has too many pixels, needs too much memory, or its result can't be written.
    """
    job = Job(source, folder, Path(f"{source.stem}_x{scale:g}.png"), "png")
    with _logged() as warnings:
        (result,) = upscale_photos(upscaler, [job], scale=scale, workers=1, max_pixels=max_pixels, progress=progress)
    if result.reason is not None:
        raise ValueError(_without_folders(result.reason, source, job.target))
    photo = read_photo(source, max_pixels)
    sr = read_image(job.target)
    after = _shown(np.asarray(_reduced(sr, SHOWN_PIXELS)), photo.icc)
    before = _shown(photo.pixels, photo.icc).resize(after.size, Image.Resampling.BICUBIC)
    return Enlarged(job.target, sr.size, before, after, result.choice, (*result.notices, *warnings))


def _read(source: Path, max_pixels: int) -> Photo:
    try:
        return read_photo(source, max_pixels)
    except ValueError as error:
        raise ValueError(_without_folders(str(error), source)) from error


def _without_folders(reason: str, *paths: Path) -> str:
    """Leave out the folders, which are those of the server and unknown to the user."""
    for path in paths:
        reason = reason.replace(str(path), path.name)
    return reason


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


def _reduced(image: Image.Image, pixels: int) -> Image.Image:
    """Reduce an image that has more pixels, and keep its colour profile."""
    ratio = math.sqrt(pixels / (image.width * image.height))
    if ratio >= 1:
        return image
    width, height = (max(1, round(ratio * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _centre(pixels: ImageArray) -> ImageArray:
    """Cut out the middle `LOOKED_AT` rows and columns, or as many as there are."""
    top, left = (max(0, side - LOOKED_AT) // 2 for side in pixels.shape[:2])
    return pixels[top : top + LOOKED_AT, left : left + LOOKED_AT]


def _modulation(network: BlindNetwork, lr: Tensor, idr: Tensor) -> npt.NDArray[np.float32] | None:
    if not isinstance(network, MRDAStudent) or network.rdan.hyperparameters["conv_type"] != "rda":
        return None
    return network.rdan.modulation_map(lr, idr)[0, 0].cpu().numpy()
