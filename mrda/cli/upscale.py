# SPDX-License-Identifier: Apache-2.0
"""`mrda upscale`."""

import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from mrda.cli.app import app
from mrda.cli.common import (
    Device,
    DType,
    Strength,
    check_output_file,
    check_strength,
    chosen_weights,
    refuse,
    refusing,
)
from mrda.cli.streams import (
    INPUT,
    OUTPUT,
    STREAM,
    InterruptedOutputError,
    ending_with_the_reader,
    standard_streams,
    upscale_stream,
)
from mrda.cli.upscale_on_ray import check_here, check_on_ray, prepare_on_ray, upscale_on_ray
from mrda.core.files import make_folder
from mrda.core.progress import TerminalProgress
from mrda.upscale.choice import AUTO, PURPOSES
from mrda.upscale.stores import is_stored

if TYPE_CHECKING:
    from mrda.upscale.auto import AutoUpscaler
    from mrda.upscale.batch import Job, Result
    from mrda.upscale.upscaler import Upscaler

_log = logging.getLogger(__name__)

SAID = 10
"""Photos up to which the choice of the weights is said for each."""
QUALITY = 95
"""Quality of JPEG and lossy WebP, unless another is asked for."""
_SHIPPED = "; ".join(f"{name} for {purpose.suits}" for name, purpose in PURPOSES.items())


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
        typer.Argument(
            help="Photos, folders of photos, or patterns such as 'holiday/*.jpg'; with --engine ray also URIs such as "
            "s3://bucket/folder. - reads one photo from standard input and writes the result to standard output.",
            metavar="PHOTO",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="Output folder, with --engine ray also its URI; created if missing (default: beside each photo).",
            metavar="DIR",
        ),
    ] = None,
    weights: Annotated[
        Path,
        typer.Option(
            "-w",
            "--weights",
            metavar="WEIGHTS",
            help=f"{AUTO}: those of the package that suit each photo. {_SHIPPED}. Or a .safetensors file, the authors' "
            ".pth, a folder, or user/repository on the Hugging Face Hub.",
            show_default=True,
        ),
    ] = Path(AUTO),
    strength: Strength = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "-s",
            "--scale",
            help="Scale, 0.1 to 16 (default: that of the weights, from which any other is resampled).",
            metavar="X",
        ),
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
        typer.Option("--ext", "--format", help="Format of the results; auto keeps that of each photo."),
    ] = "auto",
    quality: Annotated[
        int | None,
        typer.Option(help=f"Quality of JPEG and lossy WebP (default: {QUALITY}).", min=1, max=100, metavar="N"),
    ] = None,
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
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Compute here, or on a Ray cluster, which continues by what exists in the output folder."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Workers of --engine ray (default: one per GPU, or per --cores, of all nodes).", min=1, metavar="N"
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(help="Cores of a worker of --engine ray without a GPU (default: 4).", min=1, metavar="K"),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse photos with more pixels than this.", min=1, metavar="N")
    ] = 250_000_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files that would be written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as a JSON object.")] = False,
) -> None:
    """Upscale photos of unknown degradation, each with the weights that suit it unless -w names others.

    16 bits, gray, transparency, colour profile, EXIF and resolution are kept if the output format supports them. With
    torchrun or accelerate launch, several processes share the photos; with --engine ray, the nodes of a cluster do.
    """
    chosen = weights_or_auto(weights)
    check_strength(chosen, strength)
    if scale is not None and not 0.1 <= scale <= 16:
        refuse(f"--scale is {scale:g}, but must be from 0.1 to 16")
    _check_options(tile, tile_pad, ext, quality, lossless)
    streams = None
    if STREAM in photos:
        taken = {"-o": output, "--suffix": suffix, "--manifest": manifest, "-r": recursive or None}
        taken |= {"--skip-existing": skip_existing or None, "--dry-run": dry_run or None, "--json": as_json or None}
        _check_alone(photos, [option for option, value in taken.items() if value is not None])
        streams = standard_streams("mrda upscale - < photo.jpg > enlarged.jpg")
    check_output_file("--manifest", manifest)
    if output is not None and os.path.exists(output) and not os.path.isdir(output):
        refuse(f"the output folder {output} is a file")
    if engine == "ray":
        check_on_ray(output, manifest, device)
    else:
        check_here(photos, output, workers, cores)
    if suffix is not None and ("/" in suffix or os.sep in suffix):
        refuse(f"--suffix is {suffix!r}, but must not contain a slash")
    from mrda.upscale.finding import check_named
    from mrda.upscale.jobs import is_done, mine, plan
    from mrda.upscale.weights import bundled_scale

    if streams is None:
        with refusing():
            check_named(photos)
    if dry_run and engine == "local" and device is None and manifest is None:
        with refusing():  # without torch, if the package's own weights leave nothing to check by it
            own = bundled_scale(next(iter(PURPOSES)) if chosen is None else chosen)
            if own is not None:
                every = plan(photos, output, suffix=_ending(suffix, scale, own), ext=ext, recursive=recursive)
                _echo(_future([job for job in every if not is_done(job, skip_existing, None)], as_json))
                return
    from mrda.upscale.batch import sweep, upscale_photos
    from mrda.upscale.manifest import Manifest

    with refusing():
        options = upscaler_options(tile, tile_pad, dtype, device if engine == "local" else "cpu")
        upscaler = new_upscaler(chosen, options, strength)
    how: dict[str, Any] = {"scale": scale, "lossless": lossless, "max_pixels": max_pixels}
    how["quality"] = QUALITY if quality is None else quality
    if streams is not None:
        _upscale_one(upscaler, streams, ext, how)
        return
    with refusing():
        done = None if manifest is None else Manifest(manifest, upscaler, scale)
        every = plan(
            photos,
            output,
            suffix=_ending(suffix, scale, upscaler.scale),
            ext=ext,
            recursive=recursive,
            earlier=() if done is None else done.targets,
        )
        run = None
        if engine == "ray":
            run = prepare_on_ray(upscaler, options, every, photos, output, scale=scale, skip_existing=skip_existing)
    if dry_run:
        left = [job for job in every if not (is_done(job, skip_existing, done) if run is None else run.has(job))]
        _echo(_future(left, as_json))
        return
    with refusing():
        share = mine(every) if run is None else every
        if output is not None and not is_stored(output):
            make_folder(Path(output), "output folder")
    sweep(share)
    _tell_of_scale(scale, upscaler.scale)
    for job in share:
        if job.fault is not None:
            _log.error(job.fault)
    how["workers"] = jobs
    results: list[Result] = []
    interrupted = False
    try:
        for result in (
            upscale_photos(
                upscaler,
                share,
                **how,
                skip_existing=skip_existing,
                manifest=done,
                progress=TerminalProgress(),
            )
            if run is None
            else upscale_on_ray(run, how, workers, cores, device)
        ):
            results.append(result)
            if result.reason is not None and result.job.fault is None:
                _log.error(result.reason)
            if result.choice is not None and len(share) <= SAID:
                _log.info("%s: %s", result.job.source, result.choice)
            for notice in result.notices:
                _log.warning("%s: %s", result.job.source, notice)
    except KeyboardInterrupt:
        interrupted = True
        _log.error(_stopped(share, results))
    place = {id(job): number for number, job in enumerate(share)}
    results.sort(key=lambda result: place[id(result.job)])
    _echo(json.dumps(_facts(results)) if as_json else _summary(results, len(share), output))
    if interrupted:
        raise typer.Exit(130)
    failed = any(result.state == "failed" for result in results) or (done is not None and done.failed)
    raise typer.Exit(1 if failed else 0)


def _check_options(tile: str, tile_pad: int | None, ext: str, quality: int | None, lossless: bool | None) -> None:
    """Refuse options that others leave without effect, and tiles that are no number."""
    check_tile(tile)
    if tile_pad is not None and re.fullmatch("0+", tile):
        refuse(f"--tile-pad {tile_pad} is for tiles, and --tile 0 makes none: leave out one of them")
    if lossless is not None and ext not in ("auto", "webp"):
        refuse(
            f"--{'lossless' if lossless else 'lossy'} is for WebP, and --ext {ext} writes none: leave out one of them"
        )
    if quality is not None and (ext in ("png", "tiff") or (ext == "webp" and lossless)):
        without = "--lossless" if ext == "webp" else f"--ext {ext}"
        refuse(f"--quality {quality} is for lossy formats, and {without} writes without loss: leave out one of them")


def _check_alone(photos: list[str], options: list[str]) -> None:
    """Refuse other photos beside standard input, and options that are for files."""
    if len(photos) > 1:
        refuse(
            f"{STREAM} stands for {INPUT} and must be alone: leave out the other photos (./{STREAM} is a file of that "
            "name)"
        )
    if options:
        refuse(f"{options[0]} is for files, and {STREAM} reads and writes none: leave out one of them")


def _upscale_one(
    upscaler: "Upscaler | AutoUpscaler", streams: tuple[BinaryIO, BinaryIO], ext: str, how: dict[str, Any]
) -> None:
    """Upscale the photo from standard input to standard output."""
    _tell_of_scale(how["scale"], upscaler.scale)
    try:
        with ending_with_the_reader():
            result = upscale_stream(upscaler, *streams, ext=ext, **how)
    except InterruptedOutputError:
        _log.error("stopped: %s may have only a part of the result: discard it", OUTPUT)
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        _log.error("stopped: nothing was written")
        raise typer.Exit(130) from None
    if result.reason is not None:
        _log.error(result.reason)
        raise typer.Exit(1)
    if result.choice is not None:
        _log.info("%s: %s", INPUT, result.choice)
    for notice in result.notices:
        _log.warning("%s: %s", INPUT, notice)


def _ending(suffix: str | None, scale: float | None, own: int) -> str:
    """Return the end of the results' names, by the options and the scale of the weights."""
    return suffix if suffix is not None else f"x{own if scale is None else scale:g}"


def _tell_of_scale(scale: float | None, own: int) -> None:
    """Say that a scale is larger than that of the weights."""
    if scale is not None and scale > own:
        _log.warning(
            "-s %g: the weights enlarge by %d; all beyond that is resampling, which adds no detail", scale, own
        )


def check_tile(tile: str) -> None:
    """Refuse a side of tiles that is neither a number nor auto."""
    if not re.fullmatch(r"auto|\d+", tile, re.ASCII):
        refuse(f"--tile is {tile!r}, but must be a number of pixels or auto")


def weights_or_auto(weights: Path) -> Path | None:
    """Return the weights that were asked for, and refuse what is missing or no weights.

    None means those that suit the photo; a file or folder named as `AUTO` takes precedence.
    """
    return None if str(weights) == AUTO and not os.path.exists(weights) else chosen_weights(weights)


def new_upscaler(
    weights: Path | None, options: dict[str, Any], strength: float | None = None
) -> "Upscaler | AutoUpscaler":
    """Make the upscaler of `weights_or_auto` and `upscaler_options`; raises as `Upscaler.from_pretrained`."""
    from mrda.upscale.auto import AutoUpscaler
    from mrda.upscale.upscaler import Upscaler

    if weights is None:
        return AutoUpscaler(**options)
    return Upscaler.from_pretrained(weights, strength=strength, **options)


def upscaler_options(tile: str, tile_pad: int | None, dtype: str, device: str | None) -> dict[str, Any]:
    """Turn options of the command line into those of an upscaler; raises ValueError if the device can't be used."""
    import torch

    side: Any = tile if tile == "auto" else int(tile) or None
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {device} can't be used: {str(error).splitlines()[0]}") from None
    elif torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    kinds = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return {"device": device, "tile": side, "tile_pad": tile_pad, "dtype": kinds[dtype]}


def _echo(text: str) -> None:
    """Print text; characters of file names that the terminal can't show become question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(text.encode(encoding, "replace").decode(encoding))


def _future(jobs: "list[Job]", as_json: bool) -> str:
    if as_json:
        planned = [_names(job) for job in jobs if job.fault is None]
        failed = [{**_names(job), "reason": _text(job.fault)} for job in jobs if job.fault is not None]
        return json.dumps({"planned": planned, "failed": failed})
    lines = [f"{job.source} -> {job.address}" if job.fault is None else job.fault for job in jobs]
    return "\n".join(lines) or "no photo is left to upscale"


def _facts(results: "list[Result]") -> dict[str, list[dict[str, Any]]]:
    facts: dict[str, list[dict[str, Any]]] = {"done": [], "skipped": [], "failed": []}
    for result in results:
        entry: dict[str, Any] = _names(result.job)
        if result.reason is not None:
            entry["reason"] = _text(result.reason)
        if result.choice is not None:
            entry["weights"], entry["why"] = result.choice.weights, result.choice.reason
            if (purpose := result.choice.purpose) is not None and purpose.strength is not None:
                entry["strength"] = purpose.strength
        if result.notices:
            entry["notices"] = list(map(_text, result.notices))
        facts[result.state].append(entry)
    return facts


def _names(job: "Job") -> dict[str, Any]:
    return {"source": _text(str(job.source)), "target": _text(job.address)}


def _text(name: str) -> str:
    """Make a file name valid Unicode, as JSON requires, with question marks for invalid bytes."""
    return name.encode("utf-8", "replace").decode()


def _summary(results: "list[Result]", planned: int, output: str | None) -> str:
    count = Counter(result.state for result in results)
    parts = [f"{count['done']} of {planned} photos upscaled {f'into {output}' if output else 'beside the originals'}"]
    parts += [f"{count[state]} {state}" for state in ("skipped", "failed") if count[state]]
    ways = Counter(result.choice.weights or "Lanczos" for result in results if result.choice is not None)
    if len(ways) > 1:
        parts.append(" and ".join(f"{number} by {name}" for name, number in ways.most_common()))
    return ", ".join(parts)


def _stopped(jobs: "list[Job]", results: "list[Result]") -> str:
    """Say after Ctrl-C what was done and what was not."""
    known = {id(result.job) for result in results}
    left = [str(job.source) for job in jobs if id(job) not in known]
    if not left:
        return "stopped after the last photo"
    further = f" and {len(left) - 1} more" if len(left) > 1 else ""
    done = sum(result.state == "done" for result in results)
    return (
        f"stopped: {done} of {len(jobs)} photos are done and whole; {left[0]}{further} not: the same command with "
        "--skip-existing continues"
    )
