"""How close to libjpeg are batched JPEG codecs, and how fast on the CPU? Measures ours and others' on real photos.

    python benchmarks/jpeg.py --update docs/jpeg.md

The photos are those of Set5, Set14, B100 and DIV2K_val_crop256 in the folder that the environment variable MRDA_DATA
names, or --data names their folders. Kornia and OpenCV are measured where they can be imported; nothing else here needs
them, so a folder of their own will do:

    pip install --no-deps --target FOLDER kornia kornia_rs opencv-python-headless
    PYTHONPATH=FOLDER python benchmarks/jpeg.py
"""

import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.jpeg` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from PIL import features
from torch import Tensor

from benchmarks import commands
from benchmarks.records import environment
from benchmarks.table import Page
from benchmarks.timing import Run, host_clock, interleaved
from mrda.core.files import write_text
from mrda.core.memory import keep_freed_memory
from mrda.degradations.jpeg import _encoded, _simulated, _tensor_codec
from mrda.photo.images import Source, find_images, read_rgb, source_name, to_eight_bits, to_tensor

RESULTS = Path(__file__).parent / "results" / "jpeg.json"
SECTION = "jpeg"
SETS = ("Set5", "Set14", "B100", "DIV2K_val_crop256")

EVERY_QUALITY = tuple(range(30, 96))
SOME_QUALITIES = EVERY_QUALITY[::13]  # for codecs that make no promise

BATCHES = (8, 16)
SIDE = 256
SECONDS = 30.0
MIN_ROUNDS = 5

Codec = Callable[[Tensor, Tensor], Tensor]
"""(B, 3, H, W) in [0, 1] and a quality for each image -> the images after JPEG."""
Record = dict[str, Any]

TRUTH = "Pillow's encoder"
OURS = "tensors, libjpeg"
SIMULATED = "tensors, simulated"


def encoded_by_threads(images: Tensor, quality: Tensor) -> Tensor:
    """Pillow's encoder, with a thread for each core."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        parts = zip(images.split(1), quality.split(1), strict=True)
        return torch.cat(list(pool.map(lambda part: _encoded(*part), parts)))


def kornia_codec() -> Codec:
    """Kornia's differentiable codec.

    Raises:
        ModuleNotFoundError: kornia is missing.
    """
    codec: Codec = importlib.import_module("kornia.enhance").jpeg_codec_differentiable
    return torch.no_grad()(codec)


def opencv_codec() -> Codec:
    """OpenCV's encoder, image by image, from and to tensors as Pillow's.

    Raises:
        ModuleNotFoundError: OpenCV is missing.
    """
    cv2 = importlib.import_module("cv2")

    def encoded(images: Tensor, quality: Tensor) -> Tensor:
        levels = (255 * images).clamp_(0, 255).round_().byte().flip(1)  # BGR
        pixels = levels.permute(0, 2, 3, 1).contiguous().numpy()
        decoded = np.empty_like(pixels)
        for index, level in enumerate(quality.round().int().tolist()):
            _, file = cv2.imencode(".jpg", pixels[index], [cv2.IMWRITE_JPEG_QUALITY, level])
            decoded[index] = cv2.imdecode(file, cv2.IMREAD_COLOR)
        planes = torch.from_numpy(decoded).permute(0, 3, 1, 2).flip(1)
        return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    return encoded


CODECS: Mapping[str, Callable[[], Codec]] = {
    TRUTH: lambda: _encoded,
    f"{TRUTH}, in threads": lambda: encoded_by_threads,
    "OpenCV's encoder": opencv_codec,
    OURS: lambda: _tensor_codec,
    SIMULATED: lambda: _simulated,
    "kornia": kornia_codec,
}
"""By name, what gives a codec or raises ModuleNotFoundError."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure agreement and speed."""
    command = commands.parser(__doc__)
    command.set_defaults(json=RESULTS)
    command.add_argument("--data", nargs="+", metavar="PHOTO", help="photos, or folders of photos")
    command.add_argument("--update", type=Path, metavar="FILE", help="put the tables into this file, at its markers")
    options = command.parse_args(arguments)
    commands.check_json(command, options.json)
    try:
        page = None if options.update is None else Page(options.update, SECTION)
        photos = find_images(options.data or folders())
        batch = crops(photos, max(BATCHES))
    except (OSError, ValueError) as error:
        command.error(str(error))

    keep_freed_memory()
    codecs, absent = available()
    progress = commands.Progress(len(BATCHES) + 1)
    times = []
    for index, size in enumerate(BATCHES):
        progress.show(index, f"speed, {size} images")
        times += speed(codecs, batch[:size], SECONDS, MIN_ROUNDS)
    progress.show(len(BATCHES), f"agreement on {len(photos)} photos")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one photo is too little work for more
    libjpeg = "libjpeg-turbo " + str(features.version("libjpeg_turbo"))
    results = {
        "libjpeg": libjpeg if features.check_feature("libjpeg_turbo") else f"libjpeg {features.version('jpg')}",
        "agreement": agreement(codecs, photos),
        "speed": times,
        "absent": absent,
    }
    torch.set_num_threads(threads)
    progress.end()
    write_text(options.json, json.dumps(results, indent=1) + "\n")
    if page is not None:
        page.update(document(results))
    print(document(results), end="")


def folders() -> list[Source]:
    """The folders of the photo sets.

    Raises:
        ValueError: nothing says where they are.
    """
    root = os.environ.get("MRDA_DATA")
    if not root:
        raise ValueError(f"name photos by --data, or the folder of {', '.join(SETS)} by MRDA_DATA")
    return [Path(root) / name for name in SETS]


def read(source: Source) -> Tensor:
    """A photo as (1, 3, H, W), in 8 bits."""
    return to_tensor(to_eight_bits(read_rgb(source)))


def crops(photos: Sequence[Source], count: int) -> Tensor:
    """So many crops of SIDE x SIDE, from the centres of photos that are large enough, in turn.

    Raises:
        ValueError: none is.
    """
    found: list[Tensor] = []
    for source in photos:
        image = read(source)
        top, left = ((side - SIDE) // 2 for side in image.shape[2:])
        if min(top, left) >= 0:
            found.append(image[..., top : top + SIDE, left : left + SIDE])
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"no photo is {SIDE} pixels high and wide or more, but one must be")
    return torch.cat([found[index % len(found)] for index in range(count)])


def available() -> tuple[dict[str, Codec], dict[str, str]]:
    """The codecs that can be had here, and of the others why not."""
    codecs: dict[str, Codec] = {}
    absent: dict[str, str] = {}
    for name, get in CODECS.items():
        try:
            codecs[name] = get()
        except ModuleNotFoundError as error:
            absent[name] = str(error)
    return codecs, absent


def agreement(
    codecs: Mapping[str, Codec],
    photos: Iterable[Source],
    every: Sequence[int] = EVERY_QUALITY,
    some: Sequence[int] = SOME_QUALITIES,
) -> list[Record]:
    """Of each codec: the PSNR over RGB between what it and what Pillow's encoder makes of each photo at each quality.

    Our codec on tensors, which promises libjpeg's output, is tried at all qualities. None stands for the PSNR of
    images that are the same.
    """
    compared = [name for name in codecs if name != TRUTH]
    scores: dict[str, list[tuple[float, str, int]]] = {name: [] for name in compared}
    for source in photos:
        image = read(source)
        for level in sorted({*every, *some}):
            quality = torch.tensor([float(level)])
            truth = _encoded(image, quality)
            for name in compared:
                if level in (every if name == OURS else some):
                    scores[name].append((psnr(codecs[name](image, quality), truth), source_name(source), level))
    return [summary(name, values) for name, values in scores.items()]


def summary(name: str, scores: Sequence[tuple[float, str, int]]) -> Record:
    """What a codec's scores come to."""
    decibels = [score for score, *_ in scores]
    lowest, photo, quality = min(scores)
    return {
        "codec": name,
        "photos": len({photo for _, photo, _ in scores}),
        "qualities": sorted({quality for *_, quality in scores}),
        "comparisons": len(scores),
        "identical": decibels.count(math.inf),
        "lowest_db": None if lowest == math.inf else lowest,
        "lowest_at": None if lowest == math.inf else [photo, quality],
        "median_db": None if median(decibels) == math.inf else median(decibels),
    }


def psnr(images: Tensor, truth: Tensor) -> float:
    """PSNR over RGB in dB."""
    error = (images.double() - truth).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def speed(codecs: Mapping[str, Codec], images: Tensor, seconds: float, min_rounds: int) -> list[Record]:
    """The time of each codec for a batch, qualities from 30 to 95 in it: the median, and the shortest.

    Where others work on the machine too, the shortest says more.
    """
    quality = torch.linspace(EVERY_QUALITY[0], EVERY_QUALITY[-1], len(images)).round()
    runs = {name: partial(codec, images, quality) for name, codec in codecs.items()}
    shortest = dict.fromkeys(runs.values(), math.inf)

    def clock(run: Run) -> float:
        ms = host_clock(run)
        shortest[run] = min(ms, shortest[run])
        return ms

    timings = interleaved(runs, clock, seconds=seconds, min_rounds=min_rounds)
    return [
        {
            "codec": name,
            "shape": list(images.shape),
            "ms": timing.ms,
            "ms_shortest": shortest[runs[name]],
            "rounds": timing.rounds,
        }
        | environment("cpu")
        for name, timing in timings.items()
    ]


def document(results: Mapping[str, Any]) -> str:
    """The tables, for people."""
    agreement, times = results["agreement"], results["speed"]
    shapes = sorted({tuple(record["shape"]) for record in times})
    ms = {(record["codec"], tuple(record["shape"])): (record["ms_shortest"], record["ms"]) for record in times}
    by_codec = {record["codec"]: record for record in agreement}
    lines = [
        f"PSNR over RGB between a codec's output and that of {TRUTH} ({results['libjpeg']}), over "
        f"{max(record['photos'] for record in agreement)} photos; the shortest time of a call on the CPU (and the "
        f"median): {times[0]['processor']}, {times[0]['threads']} threads, torch {times[0]['torch']}.",
        "",
        "| codec | qualities | identical | lowest | median | " + " | ".join(map(_shape, shapes)) + " |",
        "|---|---|---|---|---|" + "---|" * len(shapes),
    ]
    for name in dict.fromkeys(record["codec"] for record in times):
        cells = ["{:.1f} ms ({:.1f})".format(*ms[name, shape]) for shape in shapes]
        record = by_codec.get(name)
        if record is None:
            scores = ["", "", "", ""]
        else:
            qualities = record["qualities"]
            scores = [
                f"{len(qualities)}, {qualities[0]} to {qualities[-1]}",
                f"{record['identical']} of {record['comparisons']}",
                _decibels(record["lowest_db"]),
                _decibels(record["median_db"]),
            ]
        lines.append("| " + " | ".join([name, *scores, *cells]) + " |")
    lines += [f"\nNot measured: {name} ({reason})." for name, reason in results["absent"].items()]
    return "\n".join(lines) + "\n"


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.1f} dB"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


if __name__ == "__main__":
    main()
