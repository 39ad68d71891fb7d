"""What the page does with a photo: upscale it into a file, and make what is shown of that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mrda.app.probe import BlurProbe, make_probe
from mrda.networks import MRDAStudent
from mrda.photo.files import read_photo
from mrda.photo.images import ImageArray, read_image, to_eight_bits, to_tensor
from mrda.upscale.batch import upscale_photos
from mrda.upscale.jobs import Job
from mrda.upscale.upscaler import Upscaler

SHOWN_PIXELS = 16_000_000
"""Of a result beyond which the page shows it reduced, as browsers refuse or crawl."""
LOOKED_AT = 512
"""Largest side, in pixels of the photo, of the part that the blur is estimated from and the modulation is drawn of."""


@dataclass(frozen=True)
class Weights:
    """Weights to choose.

    Attributes:
        upscaler: with these weights.
        trained_on: what the file says of that, in a few words.
    """

    upscaler: Upscaler
    trained_on: str

    @cached_property
    def probe(self) -> BlurProbe:
        """Made for the first photo, as it takes seconds."""
        return make_probe(self.upscaler.network)


@dataclass(frozen=True)
class Enlarged:
    """An upscaled photo, and what the page shows of it.

    Attributes:
        file: the result, PNG.
        size: its width and height.
        before: the photo enlarged by bicubic interpolation, RGB of the size of `after`.
        after: the result in 8 bits, reduced where it has more than `SHOWN_PIXELS`.
        modulation: the mean of the masks of all RDA convs (Eq. 9), (H, W) in [0, 1] on the grid of the photo's centre;
            None of a network that has no masks.
        blur: of the photo's centre: the estimated standard deviation of a Gaussian, in pixels of the photo enlarged by
            the network's scale; None of a network whose probe is no good.
        notices: what could not be kept and what else is to be told, in a few words each.
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
    progress: Callable[[float], None] | None = None,
) -> Enlarged:
    """Upscale a photo into ``folder``.

    Args:
        upscaler: what upscales; what it has to tell becomes a notice.
        source: the photo.
        folder: for the result, which is named after photo and scale.
        scale: how much larger the result is.
        max_pixels: of the largest photo.
        probe: that of the upscaler's network.
        progress: told the share that is done, tile by tile.

    Raises:
        ValueError: the photo can't be read, has too many pixels, needs too much memory, or its result can't be written.
    """
    told: list[str] = []
    upscaler.notify = told.append
    job = Job(source, folder, Path(f"{source.stem}_x{scale:g}.png"), "png")
    (result,) = upscale_photos(upscaler, [job], scale=scale, workers=1, max_pixels=max_pixels, progress=progress)
    if result.reason is not None:
        # The photo lies where the server has put it, which tells nobody anything.
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
        notices=(*result.notices, *told),
    )


def _shown(pixels: ImageArray, icc: bytes | None) -> Image.Image:
    """8-bit RGB, with the colour profile that a browser goes by where it is one of RGB."""
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
    """The middle `LOOKED_AT` rows and columns, or as many as there are."""
    top, left = (max(0, side - LOOKED_AT) // 2 for side in pixels.shape[:2])
    return pixels[top : top + LOOKED_AT, left : left + LOOKED_AT]


def _modulation(network: MRDAStudent, lr: Tensor, idr: Tensor) -> npt.NDArray[np.float32] | None:
    if network.rdan.hyperparameters["conv_type"] != "rda":
        return None
    return network.rdan.modulation_map(lr, idr)[0, 0].cpu().numpy()
