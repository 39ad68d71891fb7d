# SPDX-License-Identifier: Apache-2.0
"""Flicker of a still scene in `mrda frames`: the change from frame to frame, by the smoothing of the degradation.

    python -m mrda.paper.studies.flicker --json benchmarks/results/flicker.json --update docs/video.md

A clip shows one photo, blurred, reduced by 4 and with new noise in every frame, in 8 bits. Its frames are upscaled with
`--smooth` 0 and 0.9. What the frames' own noise changes is in the result too, so that one frame is also upscaled by
the degradations of all: this is the part that smoothing can take away.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import torch

from mrda.core.markdown import table
from mrda.core.randomness import generator
from mrda.degradations.classic import degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.paper.studies import command
from mrda.photo.images import ImageArray, read_rgb, source_name, to_array, to_eight_bits, to_tensor
from mrda.upscale.choice import PURPOSES
from mrda.upscale.frames import FrameUpscaler, SmoothedDegradation
from mrda.upscale.upscaler import Upscaler

SECTION = "flicker"
PHOTOS = ("skimage:astronaut", "skimage:chelsea")
SIDE = 128
"""Rows and columns of the middle of a photo that are used, in HR pixels."""
FRAMES = 12
BLUR = 1.2
"""Standard deviation of the blur, in HR pixels."""
NOISES = (2, 10)
"""Standard deviations of the noise, of 255."""
SMOOTH = (0.0, 0.9)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all weights of the package on all clips."""
    parser = command.parser(__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES, metavar="N", help=f"frames of a clip (default: {FRAMES})")
    options = parser.parse_args(arguments)
    if options.frames < 2:
        parser.error(f"--frames is {options.frames}, but must be at least 2")
    command.run(parser, options, SECTION, lambda: study(options.frames), document)


def study(frames: int, weights: Sequence[str] = tuple(PURPOSES)) -> dict[str, Any]:
    """Measure clips of so many frames; a record for each photo, noise, weights and smoothing."""
    upscalers = {name: Upscaler.from_pretrained(name, device="cpu", dtype=torch.float32) for name in weights}
    cases = [(photo, noise, name) for photo in PHOTOS for noise in NOISES for name in upscalers]
    records = []
    for photo, noise, name in command.track(cases, "upscaling clips"):
        clip = still_clip(photo, noise, upscalers[name].scale, frames)
        for smooth in SMOOTH:
            facts = {"photo": source_name(photo), "noise": noise, "weights": name, "smooth": smooth}
            records.append(facts | measure(upscalers[name], clip, smooth))
    return {"frames": frames, "side": SIDE, "blur": BLUR, "records": records}


def still_clip(photo: str, noise: int, scale: int, frames: int) -> list[ImageArray]:
    """Make frames (h, w, 3) uint8 of a still scene, which differ in their noise."""
    hr = to_tensor(to_eight_bits(read_rgb(photo)))
    for dim in (2, 3):
        hr = hr.narrow(dim, (hr.shape[dim] - SIDE) // 2, SIDE)
    kernel = isotropic_gaussian(BLUR)
    seeds = [generator(0, f"{photo} {noise} {number}") for number in range(frames)]
    return [to_array(degrade(hr, kernel, scale, noise_level=noise, generator=seed).lr) for seed in seeds]


def measure(upscaler: Upscaler, clip: Sequence[ImageArray], smooth: float) -> dict[str, float]:
    """Measure the change between frames that follow each other.

    Returns:
        ``vector``: of the degradation, its root mean square in units of the degradation's own; ``levels``: of the
        result, the mean of the absolute differences in levels of 255; ``by_vector``: that of the first frame, upscaled
        by the degradations of all.
    """
    smoothed = SmoothedDegradation(smooth)
    vectors = [smoothed(upscaler.read_degradation(frame)) for frame in clip]
    upscale = FrameUpscaler(upscaler, smooth)
    size = torch.stack(vectors).square().mean().sqrt()
    moved = torch.stack([after - before for before, after in pairwise(vectors)])
    first = clip[0].astype(np.float32) / 255
    return {
        "vector": float(moved.square().mean().sqrt() / size),
        "levels": change([upscale(frame) for frame in clip]),
        "by_vector": 255 * change([upscaler(first, degradation=vector) for vector in vectors]),
    }


def change(results: Sequence[ImageArray]) -> float:
    """Return the mean absolute difference between images that follow each other."""
    return fmean(float(np.abs(after.astype(np.float32) - before).mean()) for before, after in pairwise(results))


def document(results: Mapping[str, Any]) -> str:
    """The means over the photos as Markdown, ending in a newline."""
    rows = []
    for name in dict.fromkeys(record["weights"] for record in results["records"]):
        for noise in NOISES:
            for smooth in SMOOTH:
                some = [
                    record
                    for record in results["records"]
                    if (record["weights"], record["noise"], record["smooth"]) == (name, noise, smooth)
                ]
                values = [fmean(record[key] for record in some) for key in ("vector", "by_vector", "levels")]
                rows.append(
                    (name, str(noise), f"{smooth:g}", f"{values[0]:.4f}", f"{values[1]:.4f}", f"{values[2]:.3f}")
                )
    header = ("weights", "noise", "--smooth", "degradation", "by it alone", "result")
    return table(header, rows, left=1)


if __name__ == "__main__":
    main()
