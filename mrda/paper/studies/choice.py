# SPDX-License-Identifier: Apache-2.0
"""The choice of the weights by the photo (`-w auto`): how often it is right on known degradations, and what it gains.

    python -m mrda.paper.studies.choice --json benchmarks/results/choice.json --update docs/weights/choice.md

Photos are reduced by 4, a third of them without blur, the others after one of 1.2 or 2.4 px; then they get noise or are
saved as JPEG. All weights of the package, bicubic interpolation and the choice enlarge the same files. The limits in
`mrda.upscale.choice` come from free_photos, and are checked on the other sets, all in the folder that MRDA_DATA names.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from mrda.core.markdown import table
from mrda.core.randomness import generator
from mrda.degradations.classic import degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.degradations.resample import bicubic
from mrda.evaluation.metrics import psnr_y
from mrda.paper.studies import command
from mrda.photo.files import Photo, read_photo
from mrda.photo.images import Source, find_images, read_rgb, source_name, to_array, to_eight_bits, to_tensor
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.choice import PURPOSES, applied, choose

SECTION = "choice"
FITTED = "free_photos"
CHECKED = ("Set14", "B100", "DIV2K_val_crop256")
SIDE = 320
"""Rows and columns of the middle of a photo that are used, in HR pixels."""
LIMIT = 6
"""Photos of a set that are used, evenly spaced."""
BLURS = (0.0, 1.2, 2.4)
NOISES = (1, 2, 3, 5, 10, 15, 25)
QUALITIES = (95, 90, 85, 80, 75, 70, 60, 50, 40, 30)
BICUBIC = "bicubic"
EQUAL = 0.1
"""Difference in dB up to which two ways count as equally good."""

Record = dict[str, Any]


class Condition(NamedTuple):
    """A degradation after the reduction: noise of this standard deviation, of 255, then JPEG of this quality."""

    noise: int = 0
    quality: int | None = None

    def __str__(self) -> str:
        parts = [f"noise {self.noise}"] if self.noise else []
        parts += [] if self.quality is None else [f"JPEG {self.quality}"]
        return ", ".join(parts) or "clean"


CONDITIONS = (
    Condition(),
    *(Condition(noise=noise) for noise in NOISES),
    *(Condition(quality=quality) for quality in QUALITIES),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the choice on all sets."""
    parser = command.parser(__doc__)
    parser.add_argument("--data", nargs="+", type=Path, metavar="DIR", help="sets of photos to check it on")
    parser.add_argument("--fitted", type=Path, metavar="DIR", help="set of photos that the limits come from")
    options = parser.parse_args(arguments)

    def measure() -> dict[str, list[Record]]:
        folders = command.photo_sets(options.data, CHECKED)
        (fitted,) = command.photo_sets(options.fitted and [options.fitted], [FITTED])
        return study(fitted, folders)

    command.run(parser, options, SECTION, measure, document)


def study(fitted: Path, checked: Sequence[Path]) -> dict[str, list[Record]]:
    """Measure the photos that the limits come from, and those that they are checked on; a record for each file.

    Raises:
        ValueError: a folder holds no photos.
    """
    upscaler = AutoUpscaler(device="cpu")
    return {
        "fitted": measure(upscaler, some(find_images([fitted]), 2 * LIMIT)),
        "checked": measure(upscaler, [photo for folder in checked for photo in some(find_images([folder]), LIMIT)]),
    }


def some(photos: Sequence[Source], limit: int) -> list[Source]:
    """Take at most ``limit`` photos, evenly spaced."""
    count = min(limit, len(photos))
    return [photos[len(photos) * number // count] for number in range(count)]


def measure(
    upscaler: AutoUpscaler, photos: Sequence[Source], conditions: Sequence[Condition] = CONDITIONS
) -> list[Record]:
    """Measure every way to enlarge each photo under each condition.

    Returns:
        Records: ``photo``; ``condition``; ``psnr_y`` by way, in dB; ``chosen``, one of these ways.
    """
    records = []
    for number, photo in enumerate(command.track(photos, "choosing")):
        hr = middle(to_tensor(to_eight_bits(read_rgb(photo))), upscaler.scale)
        for condition in conditions:
            name = source_name(photo)
            file = degraded(hr, condition, BLURS[number % len(BLURS)], upscaler.scale, name)
            records.append(
                {
                    "photo": name,
                    "condition": str(condition),
                    "psnr_y": scores(upscaler, file, hr),
                    "chosen": choose(file).weights or BICUBIC,
                }
            )
    return records


def middle(hr: Tensor, scale: int) -> Tensor:
    """Cut out the middle of a photo, SIDE or less, a multiple of the scale."""
    for dim in (2, 3):
        length = min(SIDE, hr.shape[dim] // scale * scale)
        hr = hr.narrow(dim, (hr.shape[dim] - length) // 2, length)
    return hr


def degraded(hr: Tensor, condition: Condition, blur: float, scale: int, name: str) -> Photo:
    """Degrade a photo, and read it from a file as people have them; the noise depends on photo and condition."""
    kernel = isotropic_gaussian(blur) if blur else None
    noise = generator(0, f"{name} {condition}")
    lr = to_array(degrade(hr, kernel, scale, noise_level=condition.noise, generator=noise).lr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("lr.png" if condition.quality is None else "lr.jpg")
        if condition.quality is None:
            Image.fromarray(lr).save(path)
        else:
            Image.fromarray(lr).save(path, quality=condition.quality)
        return read_photo(path)


def scores(upscaler: AutoUpscaler, photo: Photo, hr: Tensor) -> dict[str, float]:
    """Return the PSNR-Y of each way to enlarge a photo, in dB."""
    seen = to_tensor(photo.pixels)
    results = {BICUBIC: bicubic(seen, upscaler.scale)} | {name: upscaler.upscaler(name)(seen) for name in PURPOSES}
    return {way: float(psnr_y(sr.clamp(0, 1), hr, upscaler.scale)) for way, sr in results.items()}


def best_in_mean(records: Sequence[Record]) -> dict[str, set[str]]:
    """Return the ways that are best for each condition in the mean over all photos, or within EQUAL dB of it."""
    best = {}
    for condition, some in by_condition(records).items():
        means = {way: fmean(record["psnr_y"][way] for record in some) for way in some[0]["psnr_y"]}
        best[condition] = {way for way, mean in means.items() if mean >= max(means.values()) - EQUAL}
    return best


def by_condition(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group records."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["condition"], []).append(record)
    return groups


def document(results: Mapping[str, list[Record]]) -> str:
    """The tables as Markdown, ending in a newline."""
    best = best_in_mean(results["fitted"])
    parts = []
    for key, caption in (
        ("checked", "Photos that the limits do not come from"),
        ("fitted", f"The photos of {FITTED}, from which the limits come"),
    ):
        groups = by_condition(results[key])
        rows = []
        for condition, records in groups.items():
            means = {way: fmean(record["psnr_y"][way] for record in records) for way in records[0]["psnr_y"]}
            auto = fmean(record["psnr_y"][record["chosen"]] for record in records)
            gains = [f"{means[way] - means[BICUBIC]:+.2f}" for way in PURPOSES]
            chosen = " / ".join(str(sum(record["chosen"] == way for record in records)) for way in (*PURPOSES, BICUBIC))
            right = fmean(record["chosen"] in best[condition] for record in records)
            rows.append(
                [condition, f"{means[BICUBIC]:.2f}", *gains, f"{auto - means[BICUBIC]:+.2f}", chosen, f"{right:.0%}"]
            )
        every = results[key]
        right = fmean(record["chosen"] in best[record["condition"]] for record in every)
        near = fmean(record["psnr_y"][record["chosen"]] >= max(record["psnr_y"].values()) - EQUAL for record in every)
        missed = fmean(max(record["psnr_y"].values()) - record["psnr_y"][record["chosen"]] for record in every)
        header = ["", BICUBIC, *map(applied, PURPOSES), "auto", "chosen", "right"]
        photos = len({record["photo"] for record in every})
        parts += [
            f"{caption} ({photos}): PSNR-Y of bicubic interpolation in dB, and what the others gain on it; how often "
            f"each was chosen ({' / '.join((*PURPOSES, 'resampled only'))}), and how often that was right.\n",
            table(header, rows, left=1),
            f"Right in {right:.0%} of {len(every)} cases. For a single photo the best of all ways would have been "
            f"known only afterwards: the choice was within {EQUAL} dB of it in {near:.0%} of the cases, and "
            f"{missed:.2f} dB below it in the mean.\n",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
