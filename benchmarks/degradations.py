"""Time the second-order degradation of a batch against a pipeline that goes image by image, as data loaders do.

    python benchmarks/degradations.py --json benchmarks/results/degradations.json

Ours is timed with one draw for the batch and with one for each image, the per-image pipeline (OpenCV, numpy, scipy; see
benchmarks/degradation_peer.py) in one thread of Python and in as many as torch has. All make 8-bit LR and its bicubic
enlargement from the same HR. Each takes its turn on the same seeds: for a seed all follow one draw of what a batch
shares (sizes, modes, kinds of noise, order), and draw the rest themselves. The time is the mean over the seeds.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.degradations` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import commands
from benchmarks.records import environment
from benchmarks.timing import Run, host_clock, interleaved
from mrda.core.files import write_text
from mrda.core.memory import keep_freed_memory
from mrda.core.randomness import generator
from mrda.degradations import CommonOptions, RealDegradation, quantize
from mrda.degradations.real.draw import RealDraw

BATCH = 16
SIZE = 256
SCALE = 4
SEEDS = 20
ROUNDS = 3
PEERS = ("opencv", "opencv_threads")


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the degradation of a batch on the CPU."""
    command = commands.parser(__doc__)
    command.add_argument("--batch", type=int, default=BATCH, help=f"images of a batch (default: {BATCH})")
    command.add_argument("--size", type=int, default=SIZE, help=f"their side in pixels (default: {SIZE})")
    command.add_argument("--seeds", type=int, default=SEEDS, help=f"random batches (default: {SEEDS})")
    options = command.parse_args(arguments)
    commands.check_json(command, options.json)
    if min(options.batch, options.seeds) < 1 or options.size < 3 * SCALE or options.size % SCALE:
        command.error("--batch and --seeds must be at least 1, and --size a multiple of 4 and at least 12")

    keep_freed_memory()
    records = measure(options.batch, options.size, options.seeds)
    if options.json is not None:
        write_text(options.json, json.dumps(records, indent=1) + "\n")
    for record in records:
        print(sentence(record))


def sentence(record: dict[str, Any]) -> str:
    """A record in words."""
    if "absent" in record:
        return f"{record['provider']}: not measured, {record['absent']}"
    times = (
        f", {record['times_as_fast_as_opencv']:.2f} times as fast as opencv"
        if "times_as_fast_as_opencv" in record
        else ""
    )
    return f"{record['provider']}: {record['ms']:.1f} ms for {record['batch']} images{times}"


def measure(batch: int, size: int, seeds: int, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Time all providers on all seeds, and make a record of each."""
    images = photos(batch, size)
    found, reason = peers(images)
    progress = commands.Progress(seeds)
    times: dict[str, list[float]] = {}
    for seed in range(seeds):
        progress.show(seed, f"seed {seed}")
        for name, timing in interleaved(
            ours(images, seed) | {name: run(seed) for name, run in found.items()},
            host_clock,
            seconds=0,
            min_rounds=rounds,
        ).items():
            times.setdefault(name, []).append(timing.ms)
    progress.end()
    setting = {"batch": batch, "size": size, "scale": SCALE, "seeds": seeds, "rounds": rounds} | environment("cpu")
    records = [{"provider": name, "ms": mean(values)} | setting for name, values in times.items()]
    baseline = mean(times["opencv"]) if "opencv" in times else None
    for record in records:
        if baseline is not None:
            record["times_as_fast_as_opencv"] = baseline / record["ms"]
    return records + [{"provider": name, "absent": reason} | setting for name in PEERS if name not in times]


def ours(images: Tensor, seed: int) -> dict[str, Run]:
    """The degradation of a batch, by one draw for all images and by one for each."""
    degradations = {
        f"mrda_per_{per}": RealDegradation(SCALE, common=CommonOptions(per), patch_size=None)
        for per in ("batch", "image")
    }
    draw = control(len(images), seed)
    draws = {"mrda_per_batch": of_first_image(draw), "mrda_per_image": draw}

    def run(name: str) -> Callable[[], object]:
        def call() -> object:
            draws_of_call = generator(seed, name)
            degradations[name].draw(len(images), draws_of_call)  # what it takes; what is done must be the same for all
            return degradations[name].apply(images, draws[name], draws_of_call)

        return call

    return {name: run(name) for name in degradations}


def control(batch: int, seed: int) -> RealDraw:
    """What happens to the batch of a seed."""
    return RealDegradation(SCALE, common=CommonOptions("image")).draw(batch, generator(seed, "control"))


def of_first_image(draw: Any) -> Any:
    """A draw of one for all images: that of the first."""
    values = {field.name: getattr(draw, field.name) for field in dataclasses.fields(draw)}
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            values[name] = of_first_image(value)
        elif isinstance(value, Tensor) or name == "gray":
            values[name] = value[:1]
    return dataclasses.replace(draw, **values)


def peers(images: Tensor) -> tuple[dict[str, Callable[[int], Run]], str]:
    """The per-image pipelines, each as what makes a call from a seed; or why there are none."""
    try:
        import cv2

        from benchmarks.degradation_peer import degrade
    except ImportError as error:
        return {}, f"{error}; pip install opencv-python-headless scipy"
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)
    pictures = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]

    def run(seed: int, own_threads: int, each: Callable[..., Any]) -> Run:
        draw = control(len(images), seed)

        def call() -> object:
            cv2.setNumThreads(own_threads)
            random = np.random.default_rng(seed).spawn(len(pictures))
            pairs = list(each(lambda picture, own: degrade(picture, draw, own), pictures, random))
            return [torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True)]

        return call

    return {
        "opencv": partial(run, own_threads=threads, each=map),
        "opencv_threads": partial(run, own_threads=1, each=pool.map),
    }, ""


def photos(batch: int, size: int) -> Tensor:
    """Random pictures (batch, 3, size, size) with about as much detail as photos: most of it is coarse."""
    draws = torch.Generator().manual_seed(0)
    pictures = torch.zeros(batch, 3, size, size)
    for cells, strength in ((4, 0.5), (16, 0.25), (64, 0.15), (256, 0.1)):
        noise = torch.rand(batch, 3, min(cells, size), min(cells, size), generator=draws)
        pictures += strength * F.interpolate(noise, size=(size, size), mode="bicubic")
    return quantize(pictures)


if __name__ == "__main__":
    main()
