# SPDX-License-Identifier: Apache-2.0
"""The strength between the weights for clean and for degraded photos: what is left of noise and JPEG at each.

    python -m mrda.paper.studies.strength --json benchmarks/results/strength.json --update docs/upscaling.md \
        --figure docs/images/strength.png

Photos are reduced by the scale, and get noise or are saved as JPEG, or both. What is left is the difference between the
result of that file and the result of the photo that was only reduced, by the same weights.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mrda.core.markdown import table
from mrda.evaluation.metrics import psnr_y
from mrda.paper.figures.canvas import COLOURS, MARKERS, new_figure, save_figure
from mrda.paper.studies import command
from mrda.paper.studies.choice import Condition, by_condition, degraded, middle, some
from mrda.photo.images import Source, find_images, read_rgb, source_name, to_eight_bits, to_tensor
from mrda.upscale.strength import load_between
from mrda.upscale.upscaler import Upscaler
from mrda.upscale.weights import PARTNERS

SECTION = "strength"
SETS = ("B100", "DIV2K_val_crop256")
LIMIT = 10
"""Photos of a set that are used, evenly spaced."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
CLEAN = Condition()
CONDITIONS = (Condition(noise=10), Condition(quality=50), Condition(noise=10, quality=50))

Record = dict[str, Any]
Pixels = npt.NDArray[np.uint8]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all strengths between a pair of the package's weights."""
    parser = command.parser(__doc__)
    parser.add_argument("--data", nargs="+", type=Path, metavar="DIR", help="sets of photos")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the results into this PNG")
    parser.add_argument(
        "--weights", default=next(iter(PARTNERS), ""), help="weights that have a partner (default: %(default)s)"
    )
    options = parser.parse_args(arguments)

    def measure() -> list[Record]:
        sets = command.photo_sets(options.data, SETS)
        records = study(options.weights, [photo for folder in sets for photo in some(find_images([folder]), LIMIT)])
        if options.figure is not None:
            draw(records, options.figure)
        return records

    command.run(parser, options, SECTION, measure, document)


def study(weights: str, photos: Sequence[Source]) -> list[Record]:
    """Upscale each photo under each condition at each strength.

    Returns:
        Records: ``photo``; ``condition``; ``left``, the root mean square of what is left at each strength, of 255, none
        for the clean photo; ``psnr_y`` at each strength, in dB.

    Raises:
        ValueError: the weights have no partner, or a photo can't be read.
    """
    upscalers = [Upscaler(load_between(weights, strength)[0], dtype=torch.float32) for strength in STRENGTHS]
    scale, records = upscalers[0].scale, []
    for photo in command.track(photos, "strengths"):
        name = source_name(photo)
        hr = middle(to_tensor(to_eight_bits(read_rgb(photo))), scale)
        for condition in (CLEAN, *CONDITIONS):
            seen = degraded(hr, condition, 0.0, scale, name).pixels
            results = [upscaler(seen) for upscaler in upscalers]
            record: Record = {"photo": name, "condition": str(condition)}
            record["psnr_y"] = [float(psnr_y(to_tensor(result), hr, scale)) for result in results]
            if condition == CLEAN:
                plain = results
            else:
                record["left"] = [difference(*both) for both in zip(results, plain, strict=True)]
            records.append(record)
    return records


def difference(one: Pixels, other: Pixels) -> float:
    """Return the root mean square of the difference of two images, of 255."""
    return float(np.sqrt(np.mean((one.astype(np.float64) - other) ** 2)))


def falls(left: Sequence[float]) -> bool:
    """True if less is left at each strength than at the one before."""
    return all(after < before for before, after in pairwise(left))


def means(records: Sequence[Record], key: str) -> list[float]:
    """Return the mean of the records' lists at each strength."""
    return [fmean(column) for column in zip(*(record[key] for record in records), strict=True)]


def document(records: Sequence[Record]) -> str:
    """The means at each strength as Markdown, ending in a newline."""
    rows = []
    for condition, some_records in by_condition(records).items():
        rows.append([condition, "PSNR-Y (dB)", *(f"{mean:.2f}" for mean in means(some_records, "psnr_y")), ""])
        if condition != str(CLEAN):
            share = fmean(falls(record["left"]) for record in some_records)
            rows.append(
                [condition, "left (of 255)", *(f"{mean:.2f}" for mean in means(some_records, "left")), f"{share:.0%}"]
            )
    header = ["", "strength", *(f"{strength:g}" for strength in STRENGTHS), "falls for"]
    photos = len({record["photo"] for record in records})
    return (
        f"Means over {photos} photos; the last column is the share of photos for which each step leaves less.\n\n"
        + (table(header, rows, left=2))
    )


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw what is left at each strength, and PSNR-Y."""
    figure = new_figure(8, 3.2)
    of_left, of_psnr = figure.subplots(1, 2)
    for (condition, some_records), colour, marker in zip(by_condition(records).items(), COLOURS, MARKERS, strict=False):
        look = {"color": colour, "marker": marker, "label": condition}
        of_psnr.plot(STRENGTHS, means(some_records, "psnr_y"), **look)
        if condition != str(CLEAN):
            of_left.plot(STRENGTHS, means(some_records, "left"), **look)
    for axes, label in ((of_left, "left of noise and JPEG (of 255)"), (of_psnr, "PSNR-Y (dB)")):
        axes.set_xlabel("strength")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    of_left.set_ylim(bottom=0)
    of_psnr.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
