# SPDX-License-Identifier: Apache-2.0
"""`mrda upscale`."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrda.cli.app import app
from mrda.cli.common import (
    Device,
    DType,
    OutputFolder,
    Weights,
    check_output_file,
    chosen_weights,
    refuse,
    refusing,
)
from mrda.core.files import make_folder
from mrda.core.progress import TerminalProgress

if TYPE_CHECKING:
    from mrda.upscale.batch import Job, Result
    from mrda.upscale.upscaler import Upscaler

_log = logging.getLogger(__name__)


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Lift Pillow's process-wide limit of pixels, because `--max-pixels` takes its place."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@app.command(
    epilog="Example: mrda upscale holiday/ -o enlarged -w runs/demo/student/weights.safetensors",
    short_help="Upscale photos.",
)
@without_pillows_limit()
def upscale(
    photos: Annotated[
        list[str],
        typer.Argument(help="Photos, folders of photos, or patterns such as 'holiday/*.jpg'.", metavar="PHOTO"),
    ],
    output: OutputFolder,
    weights: Weights = None,
    scale: Annotated[
        float | None,
        typer.Option("-s", "--scale", help="Scale, 0.1 to 16 (default: that of the weights).", metavar="X"),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Include subfolders; the results keep the folder tree.")
    ] = False,
    tile: Annotated[
        str,
        typer.Option(
            "-t", "--tile", help="Side of the tiles in pixels of the photo; 0 for no tiles.", metavar="N|auto"
        ),
    ] = "auto",
    tile_pad: Annotated[
        int | None,
        typer.Option(help="Pixels that a tile sees around itself (default: the network's reach).", min=0, metavar="N"),
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(help="End of the results' names, as in NAME_TEXT.png (default: x and the scale).", metavar="TEXT"),
    ] = None,
    ext: Annotated[
        Literal["auto", "png", "jpg", "webp", "tiff"],
        typer.Option(help="Format of the results; auto keeps that of each photo."),
    ] = "auto",
    quality: Annotated[int, typer.Option(help="Quality of JPEG and lossy WebP.", min=1, max=100, metavar="N")] = 95,
    lossless: Annotated[
        bool | None,
        typer.Option("--lossless/--lossy", help="Write WebP without loss (default: as the photo is)."),
    ] = None,
    dtype: DType = "auto",
    device: Device = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip photos whose result exists already.")
    ] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Record finished photos in this file, from which the same command continues.", metavar="FILE"
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Threads that read and write photos in the background.", min=1, metavar="N")
    ] = 2,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse photos with more pixels than this.", min=1, metavar="N")
    ] = 250_000_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files that would be written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as a JSON object.")] = False,
) -> None:
    """Upscale photos of unknown degradation into a folder, with mrda-x4-iso unless -w names other weights.

    16 bits, gray, transparency, colour profile, EXIF and resolution are kept if the output format supports them. With
    torchrun or accelerate launch, several processes share the photos.
    """
    weights = chosen_weights(weights)
    if scale is not None and not 0.1 <= scale <= 16:
        refuse(f"--scale is {scale:g}, but must be from 0.1 to 16")
    check_output_file("--manifest", manifest)
    from mrda.upscale.batch import Manifest, is_done, sweep, upscale_photos
    from mrda.upscale.jobs import mine, plan

    with refusing():
        if os.path.exists(output) and not os.path.isdir(output):
            raise ValueError(f"the output folder {output} is a file")
        upscaler = load_upscaler(weights, tile, tile_pad, dtype, device)
        name = suffix if suffix is not None else f"x{upscaler.scale if scale is None else scale:g}"
        if "/" in name or os.sep in name:
            raise ValueError(f"--suffix is {name!r}, but must not contain a slash")
        done = None if manifest is None else Manifest(manifest, upscaler, scale)
        every = plan(
            photos,
            output,
            suffix=name,
            ext=ext,
            recursive=recursive,
            earlier=() if done is None else done.targets,
        )
    if dry_run:
        _echo(_future([job for job in every if not is_done(job, skip_existing, done)], as_json))
        return
    with refusing():
        share = mine(every)
        make_folder(output, "output folder")
    sweep(share)
    for job in share:
        if job.fault is not None:
            _log.error(job.fault)
    results: list[Result] = []
    for result in upscale_photos(
        upscaler,
        share,
        scale=scale,
        workers=jobs,
        quality=quality,
        lossless=lossless,
        max_pixels=max_pixels,
        skip_existing=skip_existing,
        manifest=done,
        progress=TerminalProgress(),
    ):
        results.append(result)
        if result.reason is not None and result.job.fault is None:
            _log.error(result.reason)
        for notice in result.notices:
            _log.warning("%s: %s", result.job.source, notice)
    _echo(json.dumps(_facts(results)) if as_json else _summary(results, output))
    failed = any(result.state == "failed" for result in results) or (done is not None and done.failed)
    raise typer.Exit(1 if failed else 0)


def load_upscaler(weights: Path, tile: str, tile_pad: int | None, dtype: str, device: str | None) -> "Upscaler":
    """Make an upscaler from options of the command line; raises ValueError if one can't be used."""
    import torch

    from mrda.upscale.upscaler import Upscaler

    side: Any = "auto"
    if tile != "auto":
        if not re.fullmatch(r"\d+", tile):
            raise ValueError(f"--tile is {tile!r}, but must be a number of pixels or auto")
        side = int(tile) or None
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {device} can't be used: {str(error).splitlines()[0]}") from None
    elif torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    kinds = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Upscaler.from_pretrained(weights, device=device, tile=side, tile_pad=tile_pad, dtype=kinds[dtype])


def _echo(text: str) -> None:
    """Print text; characters of file names that the terminal can't show become question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(text.encode(encoding, "replace").decode(encoding))


def _future(jobs: "list[Job]", as_json: bool) -> str:
    if as_json:
        planned = [_names(job) for job in jobs if job.fault is None]
        failed = [{**_names(job), "reason": _text(job.fault)} for job in jobs if job.fault is not None]
        return json.dumps({"planned": planned, "failed": failed})
    return "\n".join(f"{job.source} -> {job.target}" if job.fault is None else job.fault for job in jobs)


def _facts(results: "list[Result]") -> dict[str, list[dict[str, Any]]]:
    facts: dict[str, list[dict[str, Any]]] = {"done": [], "skipped": [], "failed": []}
    for result in results:
        entry: dict[str, Any] = _names(result.job)
        if result.reason is not None:
            entry["reason"] = _text(result.reason)
        if result.notices:
            entry["notices"] = list(map(_text, result.notices))
        facts[result.state].append(entry)
    return facts


def _names(job: "Job") -> dict[str, Any]:
    return {"source": _text(str(job.source)), "target": _text(str(job.target))}


def _text(name: str) -> str:
    """Make a file name valid Unicode, as JSON requires, with question marks for invalid bytes."""
    return name.encode("utf-8", "replace").decode()


def _summary(results: "list[Result]", output: Path) -> str:
    count = {state: sum(result.state == state for result in results) for state in ("done", "skipped", "failed")}
    rest = "".join(f", {number} {state}" for state, number in count.items() if number and state != "done")
    return f"{count['done']} of {len(results)} photos upscaled into {output}{rest}"
