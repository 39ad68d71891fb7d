# SPDX-License-Identifier: Apache-2.0
"""JPEG codecs on batches: how close each is to libjpeg, and how fast on the CPU, on real photos.

    python -m mrda.paper.studies.jpeg --json benchmarks/results/jpeg.json --update docs/jpeg.md

The photos are those of Set5, Set14, B100 and DIV2K_val_crop256 in the folder that the environment variable MRDA_DATA
names; --data names others. Kornia and OpenCV are measured if they can be imported; nothing else here needs them, so a
folder of their own will do:

    pip install --no-deps --target FOLDER kornia kornia_rs opencv-python-headless
    PYTHONPATH=FOLDER python -m mrda.paper.studies.jpeg
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import features
from torch import Tensor

from mrda.core.environment import timing_environment
from mrda.core.markdown import table
from mrda.degradations.jpeg import _encoded, _simulated, _tensor_codec
from mrda.paper.studies import command
from mrda.photo.images import Source, find_images, read_rgb, source_name, to_eight_bits, to_tensor

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
"""By name, a function that returns a codec or raises ModuleNotFoundError."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure agreement and speed."""
    parser = command.parser(__doc__)
    parser.add_argument("--data", nargs="+", metavar="PHOTO", help="photos, or folders of photos")
    options = parser.parse_args(arguments)
    command.run(parser, options, SECTION, lambda: study(options.data), document)


def study(data: Sequence[Source] | None) -> dict[str, Any]:
    """Measure all codecs.

    Args:
        data: photos or folders of photos; None for the sets in MRDA_DATA.

    Returns:
        ``libjpeg``, the version of Pillow's; ``agreement`` and ``speed``, records of the functions of these names;
        ``absent``, the codecs that could not be imported, with the reason.

    Raises:
        ValueError: there are no photos, or none is large enough.
    """
    photos = find_images(data or command.photo_sets(None, SETS))
    batch = crops(photos, max(BATCHES))
    codecs, absent = available()
    times = [record for size in BATCHES for record in speed(codecs, batch[:size], SECONDS, MIN_ROUNDS)]
    libjpeg = f"libjpeg-turbo {features.version('libjpeg_turbo')}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one photo is too little work for more
    try:
        agreeing = agreement(codecs, photos)
    finally:
        torch.set_num_threads(threads)
    return {
        "libjpeg": libjpeg if features.check_feature("libjpeg_turbo") else f"libjpeg {features.version('jpg')}",
        "agreement": agreeing,
        "speed": times,
        "absent": absent,
    }


def read(source: Source) -> Tensor:
    """A photo as (1, 3, H, W), in 8 bits."""
    return to_tensor(to_eight_bits(read_rgb(source)))


def crops(photos: Sequence[Source], count: int) -> Tensor:
    """Take `count` crops of SIDE x SIDE from the centres of the photos that are large enough, in turn.

    Raises:
        ValueError: none is large enough.
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
    """The codecs that can be imported, and the reasons why the others can not."""
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
    photos: Sequence[Source],
    every: Sequence[int] = EVERY_QUALITY,
    some: Sequence[int] = SOME_QUALITIES,
) -> list[Record]:
    """The PSNR over RGB between each codec's output and that of Pillow's encoder, for each photo and quality.

    Our codec on tensors, which promises libjpeg's output, is tried at all qualities. None stands for the PSNR of
    identical images.
    """
    compared = [name for name in codecs if name != TRUTH]
    scores: dict[str, list[tuple[float, str, int]]] = {name: [] for name in compared}
    for source in command.track(photos, "agreement"):
        image = read(source)
        for level in sorted({*every, *some}):
            quality = torch.tensor([float(level)])
            truth = _encoded(image, quality)
            for name in compared:
                if level in (every if name == OURS else some):
                    scores[name].append((psnr(codecs[name](image, quality), truth), source_name(source), level))
    return [summary(name, values) for name, values in scores.items()]


def summary(name: str, scores: Sequence[tuple[float, str, int]]) -> Record:
    """A codec's record of its scores."""
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
    """The median and the shortest time of each codec for a batch of qualities from 30 to 95, in interleaved rounds.

    While other programs run on the machine, the shortest says more.
    """
    quality = torch.linspace(EVERY_QUALITY[0], EVERY_QUALITY[-1], len(images)).round()
    runs = {name: partial(codec, images, quality) for name, codec in codecs.items()}
    times = command.interleaved(runs, min_rounds, seconds)
    return [
        {
            "codec": name,
            "shape": list(images.shape),
            "ms": median(values),
            "ms_shortest": min(values),
            "rounds": len(values),
        }
        | timing_environment("cpu")
        for name, values in times.items()
    ]


def document(results: Mapping[str, Any]) -> str:
    """The table as Markdown, ending in a newline."""
    times = results["speed"]
    shapes = sorted({tuple(record["shape"]) for record in times})
    ms = {(record["codec"], tuple(record["shape"])): (record["ms_shortest"], record["ms"]) for record in times}
    by_codec = {record["codec"]: record for record in results["agreement"]}
    rows = []
    for name in dict.fromkeys(record["codec"] for record in times):
        scores = ["", "", "", ""]
        if name in by_codec:
            record = by_codec[name]
            qualities = record["qualities"]
            scores = [
                f"{len(qualities)}, {qualities[0]} to {qualities[-1]}",
                f"{record['identical']} of {record['comparisons']}",
                _decibels(record["lowest_db"]),
                _decibels(record["median_db"]),
            ]
        rows.append([name, *scores, *("{:.1f} ms ({:.1f})".format(*ms[name, shape]) for shape in shapes)])
    header = ["codec", "qualities", "identical", "lowest", "median", *("x".join(map(str, shape)) for shape in shapes)]
    caption = (
        f"PSNR over RGB between a codec's output and that of {TRUTH} ({results['libjpeg']}), over "
        f"{max(record['photos'] for record in results['agreement'])} photos; the shortest time of a call on the CPU "
        f"(and the median): {times[0]['processor']}, {times[0]['threads']} threads, torch {times[0]['torch']}.\n"
    )
    absent = [f"Not measured: {name} ({reason}).\n" for name, reason in results["absent"].items()]
    return "\n".join([caption, table(header, rows, left=len(header)), *absent])


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.1f} dB"


if __name__ == "__main__":
    main()
