# SPDX-License-Identifier: Apache-2.0
"""A sheet of details of photos, enlarged by bicubic interpolation and by all weights of the package for one scale.

    python -m mrda.paper.studies.sheet RealSRSet RealESRGAN_inputs -o docs/weights/sheet.jpg

Of each photo the square with the most detail is shown; the photo is cut around it before it is enlarged.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from mrda.core.files import atomic_write
from mrda.degradations.resample import bicubic
from mrda.paper.studies import command
from mrda.photo.crops import most_detailed_crop
from mrda.photo.images import Source, find_images, read_rgb, source_name, to_array, to_eight_bits, to_tensor
from mrda.upscale.choice import PURPOSES
from mrda.upscale.upscaler import Upscaler

SIDE = 44
"""Side of a detail in pixels of the photo."""
LARGEST = 192
"""Side in pixels that a photo is cut to around its detail, so that large ones take no hours."""
MARGIN, LINE = 4, 14  # pixels between details, and of a line of text

Pixels = npt.NDArray[np.uint8]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("photos", nargs="+", help="photos, or folders of photos")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, .png or .jpg")
    parser.add_argument("--reduced-by", type=int, metavar="N", help="reduce the photos first, as clean ones")
    parser.add_argument("--across", type=int, default=2, help="photos side by side (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        sheet(find_images(options.photos), options.output, reduced_by=options.reduced_by, across=options.across)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def sheet(photos: Sequence[Source], path: Path, *, reduced_by: int | None = None, across: int = 2) -> None:
    """Draw a row for each photo: its name, its detail by bicubic interpolation, and by each of `PURPOSES`.

    Args:
        photos: the photos.
        path: the picture.
        reduced_by: reduce the photos by this factor first.
        across: photos side by side.
    """
    upscalers = {name: Upscaler.from_pretrained(name, dtype=torch.float32) for name in PURPOSES}
    scale = next(iter(upscalers.values())).scale
    cell, width = scale * SIDE + MARGIN, (1 + len(upscalers)) * (scale * SIDE + MARGIN) + MARGIN
    rows = -(-len(photos) // across)
    page = Image.new("RGB", (across * width, rows * (cell + LINE) + LINE), "white")
    draw = ImageDraw.Draw(page)
    for number, photo in enumerate(command.track(photos, "photos")):
        image = to_eight_bits(read_rgb(photo))
        if reduced_by is not None:
            image = to_array(bicubic(to_tensor(image), 1 / reduced_by))
        image, (top, left) = around(image, *finest(image))
        results = [to_array(bicubic(to_tensor(image), scale)), *(upscaler(image) for upscaler in upscalers.values())]
        x, y = number % across * width, LINE + number // across * (cell + LINE)
        draw.text((x, y), source_name(photo), fill="black")
        for column, (name, result) in enumerate(zip(("bicubic", *upscalers), results, strict=True)):
            if number < across:
                draw.text((x + column * cell, 0), name, fill="black")
            part = result[scale * top : scale * (top + SIDE), scale * left : scale * (left + SIDE)]
            page.paste(Image.fromarray(np.ascontiguousarray(part)), (x + column * cell, y + LINE))
    with atomic_write(path) as file:
        page.save(file, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=88)


def finest(image: Pixels) -> tuple[int, int]:
    """Return the top and left of the square of SIDE pixels with the most detail.

    Raises:
        ValueError: the photo is smaller than that.
    """
    height, width = image.shape[:2]
    if min(height, width) < SIDE:
        raise ValueError(f"a photo has {width} x {height} px, but the sheet shows {SIDE} x {SIDE}: leave it out")
    top, left, _ = most_detailed_crop(image, SIDE)
    return top, left


def around(image: Pixels, top: int, left: int) -> tuple[Pixels, tuple[int, int]]:
    """Cut a photo to LARGEST pixels around its detail; returns it, and the detail's place in it."""
    starts = []
    for place, length in zip((top, left), image.shape[:2], strict=True):
        starts.append(min(max(0, place + SIDE // 2 - LARGEST // 2), max(0, length - LARGEST)))
    y, x = starts
    return image[y : y + LARGEST, x : x + LARGEST], (top - y, left - x)


if __name__ == "__main__":
    main()
