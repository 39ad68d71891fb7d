# SPDX-License-Identifier: Apache-2.0
"""`mrda upscale --engine ray`: what it refuses, and its run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrda.cli.common import refuse, refusing
from mrda.core.progress import TerminalProgress
from mrda.upscale.stores import is_stored

if TYPE_CHECKING:
    from mrda.upscale.auto import AutoUpscaler
    from mrda.upscale.batch import Result
    from mrda.upscale.jobs import Job
    from mrda.upscale.ray_engine import Run
    from mrda.upscale.upscaler import Upscaler


def check_here(photos: Sequence[str], output: str | None, workers: int | None, cores: int | None) -> None:
    """Refuse what only --engine ray can do."""
    for place in (*photos, *filter(None, [output])):
        if is_stored(place):
            refuse(f"{place} is in an object store, which --engine ray reads and writes: add it")
    for option, value in (("--workers", workers), ("--cores", cores)):
        if value is not None:
            refuse(f"{option} {value} is for --engine ray: add it, or leave out {option}")


def check_on_ray(output: str | None, manifest: Path | None, device: str | None) -> None:
    """Refuse what --engine ray can't do, and a missing package."""
    from mrda.core.packages import require_package

    if output is None:
        refuse("--engine ray continues by what exists in the output folder: name it with -o")
    if manifest is not None:
        refuse("--manifest is for --engine local, and --engine ray continues by what exists: leave it out")
    if device not in (None, "cpu", "cuda"):
        refuse(f"--device is {device!r}, but must be cpu or cuda with --engine ray, which counts the GPUs itself")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        refuse("--engine ray starts its own workers: start it once, without torchrun or accelerate launch")
    try:
        for module in ("ray", "pyarrow"):
            require_package(module, name="ray[data]", user="--engine ray", extra="ray")
    except ModuleNotFoundError as error:
        refuse(str(error))


def prepare_on_ray(
    upscaler: Upscaler | AutoUpscaler,
    options: dict[str, Any],
    jobs: Sequence[Job],
    photos: Sequence[str],
    output: str | None,
    *,
    scale: float | None,
    skip_existing: bool,
) -> Run:
    """List what exists in the output folder; raises ValueError if that can't be known, or is of other weights."""
    from mrda.upscale.ray_engine import Run

    assert output is not None
    return Run(upscaler, options, jobs, photos, output, scale=scale, skip_existing=skip_existing)


def upscale_on_ray(
    run: Run, writing: dict[str, Any], workers: int | None, cores: int | None, device: str | None
) -> Iterator[Result]:
    """Upscale the photos of a run, and refuse a cluster that can't."""
    with refusing():
        yield from run.upscale(writing, workers=workers, cores=cores, device=device, progress=TerminalProgress())
