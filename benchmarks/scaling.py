# SPDX-License-Identifier: Apache-2.0
"""Photos a second of `mrda upscale --engine ray` with one and two workers, and what limits more of them.

The workers have one core each and are measured between their first result and their last. Bytes and codecs are those
of photographs of scikit-image. `python -m benchmarks.tables` writes docs/scaling.md from the records.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.commands import parser
from mrda.core.environment import timing_environment
from mrda.core.files import write_text
from mrda.photo.files import read_photo, write_photo
from mrda.photo.photo import Photo
from mrda.upscale.jobs import plan
from mrda.upscale.ray_engine import Run
from mrda.upscale.upscaler import Upscaler

SIDES = (180, 320)
SOURCES = ("skimage:astronaut", "skimage:coffee", "skimage:chelsea")
WEIGHTS = "mrda-x4"
FORMATS = {"png": ("png", None), "jpg": ("jpg", 95), "webp": ("webp", 95)}
PLANNED = 5_000
WRITING = {"workers": 2, "quality": 95, "lossless": None, "max_pixels": 10**6}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the record."""
    options = parser(__doc__ or "")
    options.add_argument("--photos", type=int, default=12, metavar="N", help="photos of each run (default: 12)")
    options.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of workers; FILE keeps its others"
    )
    options.add_argument("--size", default=f"{SIDES[0]}x{SIDES[1]}", metavar="HxW", help="their size")
    chosen = options.parse_args(arguments)
    height, width = map(int, chosen.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        photos = crops(height, width)
        record: dict[str, Any] = {
            **timing_environment("cpu"),
            "cores": os.cpu_count(),
            "weights": WEIGHTS,
            "size": [height, width],
            "photos": chosen.photos,
            "codecs": {name: codec(photos, *how) for name, how in FORMATS.items()},
            "planning": planning(Path(folder)),
            "workers": rates(photos, chosen.photos, chosen.workers, Path(folder)),
        }
    if chosen.json is not None and chosen.json.is_file():
        kept = [
            rate for rate in json.loads(chosen.json.read_text())["workers"] if rate["workers"] not in chosen.workers
        ]
        record["workers"] = sorted([*kept, *record["workers"]], key=lambda rate: rate["workers"])
    text = json.dumps(record, indent=1) + "\n"
    print(text)
    if chosen.json is not None:
        write_text(chosen.json, text)


def crops(height: int, width: int) -> list[np.ndarray]:
    """Photographs of a size: the middles of some of scikit-image's."""
    pixels = [read_photo(source).pixels for source in SOURCES]
    starts = [((image.shape[0] - height) // 2, (image.shape[1] - width) // 2) for image in pixels]
    return [image[y : y + height, x : x + width] for image, (y, x) in zip(pixels, starts, strict=True)]


def codec(photos: Sequence[np.ndarray], format: str, quality: int | None) -> dict[str, float]:
    """Bytes and CPU seconds of a format, for photos and their results: medians."""
    found: dict[str, list[float]] = {"bytes_in": [], "bytes_out": [], "read": [], "write": []}
    with tempfile.TemporaryDirectory() as folder:
        for pixels in photos:
            enlarged = np.asarray(Image.fromarray(pixels).resize((4 * pixels.shape[1], 4 * pixels.shape[0])))
            source, target = Path(folder, f"in.{format}"), Path(folder, f"out.{format}")
            _write(source, pixels, format, quality)
            found["read"].append(seconds(read_photo, source))
            found["write"].append(seconds(_write, target, enlarged, format, quality))
            found["bytes_in"].append(source.stat().st_size)
            found["bytes_out"].append(target.stat().st_size)
    return {name: float(np.median(values)) for name, values in found.items()}


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """CPU time of some work, the least of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work(*arguments)
        times.append(time.process_time() - start)
    return min(times)


def planning(folder: Path) -> dict[str, float]:
    """CPU time of the plan of many photos."""
    (folder / "many").mkdir()
    for number in range(PLANNED):
        (folder / "many" / f"{number:06}.jpg").touch()
    start = time.process_time()
    plan([folder / "many"], folder / "out", suffix="x4")
    return {"photos": PLANNED, "seconds": time.process_time() - start}


def rates(
    photos: Sequence[np.ndarray], number: int, numbers_of_workers: Sequence[int], folder: Path
) -> list[dict[str, float]]:
    """Photos a second with some numbers of workers of one core, on one cluster."""
    import ray

    (folder / "in").mkdir()
    for n in range(number):
        Image.fromarray(photos[n % len(photos)]).save(folder / "in" / f"{n:03}.png")
    upscaler = Upscaler.from_pretrained(WEIGHTS, device="cpu")
    found = []
    ray.init(
        "local",
        num_cpus=max(numbers_of_workers),
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        for workers in numbers_of_workers:
            output = folder / f"out{workers}"
            jobs = plan([folder / "in"], output, suffix="x4")
            output.mkdir()
            run = Run(upscaler, {}, jobs, [], str(output))
            start = time.time()
            states = [result.state for result in run.upscale(WRITING, workers=workers, cores=1)]
            assert states == ["done"] * number, states
            written = sorted(job.target.stat().st_mtime for job in jobs)
            found.append(
                {
                    "workers": workers,
                    "photos_per_second": (number - 1) / (written[-1] - written[0]),
                    "first_result_after": written[0] - start,
                    "load": os.getloadavg()[0],
                }
            )
    finally:
        ray.shutdown()
    return found


def _write(path: Path, pixels: np.ndarray, format: str, quality: int | None) -> None:
    write_photo(path, [pixels], len(pixels), Photo(pixels), format=format, quality=quality or 95, lossless=False)


if __name__ == "__main__":
    main()
