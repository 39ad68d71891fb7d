"""`mrda evaluate`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrda.cli.app import app
from mrda.cli.common import NO_WEIGHTS, Weights, check_output_file, print_table, progress, refuse, refusing, report

if TYPE_CHECKING:
    from mrda.evaluation.protocols import Record
    from mrda.images import Source


@app.command(
    epilog="Example: mrda evaluate -w weights.safetensors --data Set5 Set14 --json scores.json",
    short_help="Measure PSNR-Y and SSIM-Y on photos.",
)
def evaluate(
    data: Annotated[
        list[Path],
        typer.Option("--data", help="A folder of HR photos, or several: --data A B.", metavar="DIR..."),
    ],
    more_data: Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="[DIR]...")] = None,
    weights: Weights = None,
    protocol: Annotated[str, typer.Option("--protocol", help="gaussian8 or bicubic.")] = "gaussian8",
    scale: Annotated[
        int | None, typer.Option("--scale", help="2, 3 or 4; that of the weights if not given, else 4.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="mrda_s, or bicubic alone, which needs no weights.")
    ] = "mrda_s",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.", metavar="FILE")] = None,
) -> None:
    """Degrade HR photos in agreed ways, upscale them, and compare; bicubic is always beside."""
    if method not in ("mrda_s", "bicubic"):
        refuse(f"--method must be mrda_s or bicubic, not {method!r}")
    if method == "mrda_s" and weights is None:
        refuse(NO_WEIGHTS)
    if method == "bicubic" and weights is not None:
        refuse("--method bicubic uses no weights, so -w can't go with it")
    check_output_file("--json", json_file)
    from mrda.evaluation.methods import blind_method
    from mrda.evaluation.protocols import conditions
    from mrda.evaluation.protocols import evaluate as measure
    from mrda.evaluation.tables import markdown, summarise, write_json
    from mrda.inference import Upscaler

    with refusing():
        folders = _folders([*data, *(more_data or ())])
        upscaler = None if weights is None else Upscaler.from_pretrained(weights)
        if scale is None:
            scale = 4 if upscaler is None else upscaler.scale
        if upscaler is not None and scale != upscaler.scale:
            raise ValueError(f"--scale is {scale}, but {weights} upscales by {upscaler.scale}")
        degradations = conditions(protocol, scale)

    methods = {} if upscaler is None else {method: blind_method(upscaler)}
    records: dict[str, list[Record]] = {}
    failures = 0
    per_photo = len(degradations) * (1 if upscaler is None else 2)
    photos = [(folder, source) for folder, sources in folders.items() for source in sources]
    with progress("evaluating", len(photos) * per_photo) as bar:
        for done, (folder, source) in enumerate(photos, start=1):
            try:
                for record in measure(methods, [source], degradations, scale):
                    records.setdefault(folder, []).append(record)
                    bar.advance(bar.task_ids[0])
            except ValueError as error:
                failures += 1
                report(bar, str(error) if str(source) in str(error) else f"{source}: {error}")
            bar.update(bar.task_ids[0], completed=done * per_photo)
    datasets = {folder: summarise(measured) for folder, measured in records.items()}
    print_table(markdown(datasets))
    if json_file is not None:
        write_json(json_file, {"datasets": datasets})
    raise typer.Exit(1 if failures else 0)


def _folders(data: Sequence[Path]) -> "dict[str, list[Source]]":
    """The photos of each folder, by the folder's name."""
    from mrda.images import find_images

    folders: dict[str, list[Source]] = {}
    for folder in data:
        if not os.path.isdir(folder):
            raise ValueError(f"--data must be a folder of photos, not {folder}")
        name = folder.resolve().name
        if name in folders:
            raise ValueError(f"two --data folders are named {name}, and their scores would mix")
        folders[name] = find_images([folder])
    return folders
