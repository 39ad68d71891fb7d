"""`mrda upscale`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from mrda.cli.app import app
from mrda.cli.common import NO_WEIGHTS, Weights, progress, refuse, refusing, report

if TYPE_CHECKING:
    from mrda.images import Source
    from mrda.inference import Upscaler


@app.command(
    epilog="Example: mrda upscale holiday/*.jpg -o enlarged -w runs/demo/student/weights.safetensors",
    short_help="Upscale photos.",
)
def upscale(
    photos: Annotated[list[str], typer.Argument(help="Photos, or folders of photos.", metavar="PHOTO")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write to; made if missing.")],
    weights: Weights = None,
) -> None:
    """Upscale photos of unknown degradation and write {name}_x{scale}.png into a folder."""
    if weights is None:
        refuse(NO_WEIGHTS)
    from mrda.images import find_images
    from mrda.inference import Upscaler

    with refusing():
        sources = find_images(photos)
        upscaler = Upscaler.from_pretrained(weights)
        targets = _targets(sources, output, upscaler.scale)
    failures = 0
    blocks = len(upscaler.network.rdan.blocks)
    with progress("upscaling", len(sources) * blocks) as bar, _stepping(bar, upscaler):
        for done, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
            failure = _upscale_photo(upscaler, source, target)
            if failure is not None:
                failures += 1
                report(bar, failure)
            bar.update(bar.task_ids[0], completed=done * blocks)
    typer.echo(f"{len(sources) - failures} of {len(sources)} photos upscaled into {output}")
    raise typer.Exit(1 if failures else 0)


@contextmanager
def _stepping(bar: Progress, upscaler: "Upscaler") -> Iterator[None]:
    """Let the bar step with each RDAB of the network."""
    hooks = [
        block.register_forward_hook(lambda *_: bar.advance(bar.task_ids[0])) for block in upscaler.network.rdan.blocks
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _upscale_photo(upscaler: "Upscaler", source: "Source", target: Path) -> str | None:
    """Upscale one photo into a file; returns what prevented it, in a sentence."""
    from mrda.images import ImageError, read_image, write_image
    from mrda.inference import is_out_of_memory

    try:
        sr = upscaler(read_image(source))
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot read {source}: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return f"cannot upscale {source}: there is not enough memory for a photo of its size"
    try:
        write_image(target, sr)
    except OSError as error:
        return f"cannot write {target}: {error.strerror or error}"
    return None


def _targets(sources: "Sequence[Source]", output: Path, scale: int) -> list[Path]:
    """Make the output folder and name each photo's output in it; refuse what would lose a file."""
    from mrda.images import source_name

    if os.path.exists(output) and not os.path.isdir(output):
        raise ValueError(f"the output folder {output} is a file")
    inputs = {Path(source).resolve() for source in sources}
    claimed: dict[Path, Source] = {}
    for source in sources:
        target = output / f"{source_name(source)}_x{scale}.png"
        if target in claimed:
            raise ValueError(f"{claimed[target]} and {source} would both be written to {target}")
        if target.resolve() in inputs:
            raise ValueError(f"{target} is one of the photos to upscale, and would be overwritten")
        claimed[target] = source
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the output folder {output} can't be made: {error.strerror}") from None
    return list(claimed)
