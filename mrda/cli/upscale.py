"""`mrda upscale`."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrda.cli.app import app
from mrda.cli.common import Weights, check_output_file, chosen_weights, progress, refuse, refusing, report
from mrda.core.files import make_folder

if TYPE_CHECKING:
    from mrda.upscale.batch import Job, Result
    from mrda.upscale.upscaler import Upscaler


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Pillow's own limit of pixels, which is the whole process's, gives way to `--max-pixels` for so long."""
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
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write to; made if missing.")],
    weights: Weights = None,
    scale: Annotated[
        float | None, typer.Option("-s", "--scale", help="How much larger; the weights' own scale if not given.")
    ] = None,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Folders with all that is below them; the tree is kept.")
    ] = False,
    tile: Annotated[
        str, typer.Option("-t", "--tile", help="Side of the tiles in pixels of the photo; auto, or 0 for none.")
    ] = "auto",
    tile_pad: Annotated[
        int | None,
        typer.Option(help="Pixels that a tile sees around itself; as many as the network does if not given.", min=0),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="{name}_SUFFIX.png is written; x and the scale if not given, '' for none.")
    ] = None,
    ext: Annotated[
        Literal["auto", "png", "jpg", "webp", "tiff"], typer.Option(help="Format; auto is that of the photo.")
    ] = "auto",
    quality: Annotated[int, typer.Option(help="Of JPEG and WebP.", min=1, max=100)] = 95,
    dtype: Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Precision of the network.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; a GPU where there is one.")] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave photos alone that are done.")] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="Note here what is done; the same command goes on from there.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Threads that read and write beside the computing.", min=1)] = 2,
    max_pixels: Annotated[int, typer.Option(help="Pixels of the largest photo.", min=1)] = 250_000_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which files would be written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Upscale photos of unknown degradation into a folder.

    16 bits, gray, transparency, colour profile, EXIF and resolution are kept as far as the format holds them. Several
    processes that torchrun or accelerate launch has started share the photos.
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
            raise ValueError(f"--suffix is {name!r}, but must be part of a file's name")
        done = None if manifest is None else Manifest(manifest, upscaler, scale)
        every = plan(
            photos,
            output,
            suffix=name,
            ext=ext,
            recursive=recursive,
            earlier=() if done is None else done.targets,
            notify=_say,
        )
    if dry_run:
        _echo(_future([job for job in every if not is_done(job, skip_existing, done)], as_json))
        return
    with refusing():
        share = mine(every)
        make_folder(output, "output folder")
    sweep(share, name)
    results: list[Result] = []
    with progress("upscaling", len(share)) as bar:
        (task,) = bar.task_ids
        upscaler.notify = lambda message: report(bar, message)
        for result in upscale_photos(
            upscaler,
            share,
            scale=scale,
            workers=jobs,
            quality=quality,
            max_pixels=max_pixels,
            skip_existing=skip_existing,
            manifest=done,
            progress=lambda part: bar.update(task, completed=min(len(share), len(results) + part)),
        ):
            results.append(result)
            bar.update(task, completed=len(results))
            if result.reason is not None:
                report(bar, result.reason)
            for notice in result.notices:
                report(bar, f"{result.job.source}: {notice}")
    _echo(json.dumps(_facts(results)) if as_json else _summary(results, output))
    failed = any(result.state == "failed" for result in results) or (done is not None and done.failed)
    raise typer.Exit(1 if failed else 0)


def load_upscaler(weights: Path, tile: str, tile_pad: int | None, dtype: str, device: str | None) -> "Upscaler":
    """The upscaler that the options of this name describe; raises ValueError where one can't be used."""
    import torch

    from mrda.upscale.upscaler import Upscaler

    side: Any = "auto"
    if tile != "auto":
        if not re.fullmatch(r"\d+", tile):
            raise ValueError(f"--tile is {tile!r}, but must be auto or a number of pixels")
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


def _say(message: str) -> None:
    """Tell what all processes of a launcher find alike, once."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"mrda: {message}", err=True)


def _echo(text: str) -> None:
    """Print names of files too that are no text, or none that the terminal can show, with question marks in them."""
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
    """A name that is Unicode, as JSON wants it, with question marks where it is not."""
    return name.encode("utf-8", "replace").decode()


def _summary(results: "list[Result]", output: Path) -> str:
    count = {state: sum(result.state == state for result in results) for state in ("done", "skipped", "failed")}
    rest = "".join(f", {number} {state}" for state, number in count.items() if number and state != "done")
    return f"{count['done']} of {len(results)} photos upscaled into {output}{rest}"
