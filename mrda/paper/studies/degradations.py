# SPDX-License-Identifier: Apache-2.0
"""The speed of the second-order degradation of a batch, against a pipeline that goes image by image as data loaders do.

    python -m mrda.paper.studies.degradations --json benchmarks/results/degradations.json

Ours is timed with one draw for the batch and with one for each image; the per-image pipeline is OpenCV's and numpy's,
in one thread of Python and in as many as torch has. All make 8-bit LR and its bicubic enlargement from the same HR.
Each takes its turn on the same seeds, and all follow the same draw of a seed; the pipeline gets its blur kernels for
free. The time is the mean over the seeds.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from statistics import mean, median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mrda.core.environment import timing_environment
from mrda.core.randomness import generator
from mrda.degradations import RealDegradation, quantize
from mrda.degradations.real.draw import RealDraw, RoundDraw
from mrda.options.classic import CommonOptions
from mrda.paper.studies import command

SCALE = 4
ROUNDS = 3
PEERS = ("opencv", "opencv_threads")

Record = dict[str, Any]
Image = npt.NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the degradation of a batch on the CPU."""
    parser = command.parser(__doc__)
    parser.add_argument("--batch", type=int, default=16, help="images of a batch (default: 16)")
    parser.add_argument("--size", type=int, default=256, help="their side in pixels (default: 256)")
    parser.add_argument("--seeds", type=int, default=20, help="random batches (default: 20)")
    options = parser.parse_args(arguments)
    command.run(parser, options, "degradations", lambda: study(options), document)


def study(options: argparse.Namespace) -> list[Record]:
    """Check the options and measure.

    Raises:
        ValueError: an option is out of its range.
    """
    if min(options.batch, options.seeds) < 1 or options.size < 3 * SCALE or options.size % SCALE:
        raise ValueError("--batch and --seeds must be at least 1, and --size a multiple of 4 and at least 12")
    return measure(options.batch, options.size, options.seeds)


def measure(batch: int, size: int, seeds: int, rounds: int = ROUNDS) -> list[Record]:
    """Time all providers on all seeds, and make a record of each."""
    try:
        cv2, reason = import_module("cv2"), ""
    except ImportError as error:
        cv2, reason = None, f"{error}; pip install opencv-python-headless"
    images = photos(batch, size)
    times: dict[str, list[float]] = {}
    for seed in command.track(range(seeds), "seeds"):
        draw = RealDegradation(SCALE, common=CommonOptions("image")).draw(batch, generator(seed, "control"))
        runs = ours(images, draw, seed) | ({} if cv2 is None else peers(cv2, images, draw, seed))
        for name, values in command.interleaved(runs, rounds).items():
            times.setdefault(name, []).append(median(values))
    setting = {"batch": batch, "size": size, "scale": SCALE, "seeds": seeds, "rounds": rounds}
    setting |= timing_environment("cpu")
    records: list[Record] = [{"provider": name, "ms": mean(values)} | setting for name, values in times.items()]
    if cv2 is not None:
        for record in records:
            record["times_as_fast_as_opencv"] = mean(times["opencv"]) / mean(times[record["provider"]])
    return records + [{"provider": name, "absent": reason} | setting for name in PEERS if name not in times]


def document(records: Sequence[Record]) -> str:
    """The records in sentences."""
    lines = []
    for r in records:
        if "absent" in r:
            lines.append(f"{r['provider']}: not measured, {r['absent']}")
            continue
        times = r.get("times_as_fast_as_opencv")
        ratio = "" if times is None else f", {times:.2f} times as fast as opencv"
        lines.append(f"{r['provider']}: {r['ms']:.1f} ms for {r['batch']} images{ratio}")
    return "\n".join(lines) + "\n"


def photos(batch: int, size: int) -> Tensor:
    """Random pictures (batch, 3, size, size) with about as much detail as photos: most of it is coarse."""
    draws = torch.Generator().manual_seed(0)
    pictures = torch.zeros(batch, 3, size, size)
    for cells, strength in ((4, 0.5), (16, 0.25), (64, 0.15), (256, 0.1)):
        noise = torch.rand(batch, 3, min(cells, size), min(cells, size), generator=draws)
        pictures += strength * F.interpolate(noise, size=(size, size), mode="bicubic")
    return quantize(pictures)


def ours(images: Tensor, draw: RealDraw, seed: int) -> dict[str, Callable[[], object]]:
    """The degradation of a batch, by one draw for all images and by one for each."""

    def call(degradation: RealDegradation, draw: RealDraw) -> object:
        draws = generator(seed, degradation.common.per)
        degradation.draw(len(images), draws)  # for its time only: all providers follow `draw`
        return degradation.apply(images, draw, draws)

    per_batch, per_image = (
        RealDegradation(SCALE, common=CommonOptions(per), patch_size=None) for per in ("batch", "image")
    )
    return {
        "mrda_per_batch": partial(call, per_batch, of_first_image(draw)),
        "mrda_per_image": partial(call, per_image, draw),
    }


def of_first_image(draw: Any) -> Any:
    """The draw of the first image, as one for all."""
    values = {field.name: getattr(draw, field.name) for field in dataclasses.fields(draw)}
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            values[name] = of_first_image(value)
        elif isinstance(value, Tensor) or name == "gray":
            values[name] = value[:1]
    return dataclasses.replace(draw, **values)


def peers(cv2: Any, images: Tensor, draw: RealDraw, seed: int) -> dict[str, Callable[[], object]]:
    """The per-image pipelines."""
    pipeline = Pipeline(cv2, draw)
    pictures = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
    shapes = (draw.first.kernel, draw.second.kernel, draw.sinc)
    kernels = [[trimmed(k.numpy()) for k in each] for each in zip(*(s.kernels() for s in shapes), strict=True)]

    def call(own_threads: int, each: Callable[..., Any]) -> object:
        cv2.setNumThreads(own_threads)
        random = np.random.default_rng(seed).spawn(len(pictures))
        pairs = list(each(pipeline, range(len(pictures)), pictures, kernels, random))
        return [torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True)]

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)
    return {"opencv": partial(call, threads, map), "opencv_threads": partial(call, 1, pool.map)}


def trimmed(kernel: npt.NDArray[np.float64]) -> Image:
    """A kernel without the zeros around it."""
    rim = min(np.flatnonzero(kernel.any(axis=axis))[0] for axis in (0, 1))
    return kernel[rim : len(kernel) - rim, rim : len(kernel) - rim].astype(np.float32)


class Pipeline:
    """The second-order degradation of one image with OpenCV and numpy, each step by their fastest call.

    Args:
        cv2: OpenCV.
        draw: parameters of each image of the batch.
    """

    def __init__(self, cv2: Any, draw: RealDraw) -> None:
        self.cv2, self.draw = cv2, draw

    def __call__(
        self, number: int, hr: Image, kernels: Sequence[Image], rng: np.random.Generator
    ) -> tuple[Image, Image]:
        """Make LR and its enlargement of image `number`, BGR in [0, 1], (H, W, 3), its sides multiples of 4."""
        draw, size = self.draw, (hr.shape[0] // SCALE, hr.shape[1] // SCALE)
        x = self.resized(self.blurred(hr, kernels[0]), scaled(hr.shape, draw.first.factor), draw.first.mode)
        x = self.compressed(self.noisy(x, draw.first, number, rng), draw.first.quality[number])
        if draw.second_blur:
            x = self.blurred(x, kernels[1])
        x = self.resized(x, scaled(size, draw.second.factor), draw.second.mode)
        x = self.noisy(x, draw.second, number, rng)
        if not draw.sinc_first:
            x = self.compressed(x, draw.second.quality[number])
        x = self.blurred(self.resized(x, size, draw.mode), kernels[2])
        if draw.sinc_first:
            x = self.compressed(x, draw.second.quality[number])
        enlarged = self.cv2.resize(x, hr.shape[1::-1], interpolation=self.cv2.INTER_CUBIC)
        return unit(eight_bits(x)), unit(eight_bits(enlarged))

    def blurred(self, x: Image, kernel: Image) -> Image:
        """Filter an image, reflected at its borders."""
        blurred: Image = self.cv2.filter2D(x, -1, kernel, borderType=self.cv2.BORDER_REFLECT_101)
        return blurred

    def resized(self, x: Image, size: tuple[int, int], mode: str) -> Image:
        """Resize an image to a height and width."""
        if x.shape[:2] == size:
            return x
        name = {"area": "INTER_AREA", "bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC"}[mode]
        resized: Image = self.cv2.resize(x, size[::-1], interpolation=getattr(self.cv2, name))
        return resized

    def noisy(self, x: Image, draw: RoundDraw, number: int, rng: np.random.Generator) -> Image:
        """Add Gaussian or Poisson noise, the same in all channels if it is gray, and clip."""
        level, gray = np.float32(draw.level[number]), draw.gray[number]
        if draw.gaussian:
            noise = rng.standard_normal((*x.shape[:2], 1) if gray else x.shape, dtype=np.float32) * (level / 255)
        else:
            levels = eight_bits(self.cv2.cvtColor(x, self.cv2.COLOR_BGR2GRAY)[..., None] if gray else x)
            peak = 2 ** math.ceil(math.log2(np.count_nonzero(np.bincount(levels.ravel(), minlength=256))))
            clean = unit(levels)
            noise = (rng.poisson(clean * peak).astype(np.float32) / peak - clean) * level
        return np.clip(x + noise, 0, 1)

    def compressed(self, x: Image, quality: Tensor) -> Image:
        """Write a JPEG file in memory, and read it back."""
        quality_option = [self.cv2.IMWRITE_JPEG_QUALITY, round(float(quality))]
        _, file = self.cv2.imencode(".jpg", eight_bits(x), quality_option)
        decoded: npt.NDArray[np.uint8] = self.cv2.imdecode(file, self.cv2.IMREAD_COLOR)
        return unit(decoded)


def scaled(size: Sequence[int], factor: float) -> tuple[int, int]:
    """Height and width times a factor."""
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def unit(levels: npt.NDArray[np.uint8]) -> Image:
    """8 bits as numbers in [0, 1]."""
    return levels.astype(np.float32) / np.float32(255)


def eight_bits(x: Image) -> npt.NDArray[np.uint8]:
    """Round to 8 bits."""
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    main()
