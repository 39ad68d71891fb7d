# SPDX-License-Identifier: Apache-2.0
"""`mrda degrade`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrda.cli.app import app
from mrda.cli.common import OutputFolder, progress, refuse, refusing
from mrda.core.faults import is_full, is_storage_fault, reason
from mrda.core.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import Tensor

    from mrda.config import TrainConfig
    from mrda.degradations.real import Step

_log = logging.getLogger(__name__)


@app.command(
    epilog="Example: mrda degrade photo.png --preset real-x4 --seed 1 --grid",
    short_help="Make LR from HR photos by the degradations of a training.",
)
def degrade(
    photos: Annotated[list[str], typer.Argument(help="HR photos, or folders of photos.", metavar="PHOTO")],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="Name of a configuration (see `mrda train --list`) or a YAML file. With --config: its preset.",
            metavar="NAME",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", help="Configuration, as for `mrda train --config`; --preset then is its preset.", metavar="NAME"
        ),
    ] = None,
    output: OutputFolder = Path("."),
    seed: Annotated[
        int,
        typer.Option(
            "--seed", help="Seed of the random numbers, used for each photo.", min=0, max=2**63 - 1, metavar="SEED"
        ),
    ] = 0,
    grid: Annotated[
        bool, typer.Option("--grid", help="Also draw the steps of the degradation into NAME_steps.png.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set an option of the configuration; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Degrade HR photos as the training of a configuration does, and write the LR images as NAME_lr.png.

    Photos are degraded whole; their bottom and right are cropped to a multiple of the scale first. The same seed gives
    the same file.
    """
    if config is None and preset is None:
        refuse("--preset is missing: name a configuration (see mrda train --list) or a YAML file")
    if any(change.startswith("seed=") for change in overrides or ()):
        refuse("--set seed is the seed of a training: give --seed for that of the photos")
    from mrda.config.load import load_config
    from mrda.photo.images import find_images, read_rgb, to_array, to_tensor, write_image
    from mrda.photo.names import distinct_names
    from mrda.upscale.finding import check_named

    with refusing():
        check_named(photos)
        if config is None:
            assert preset is not None
            settings = load_config(preset, overrides or ())
        else:
            settings = load_config(config, overrides or (), preset=preset or "recommended")
        sources = find_images(photos)
        names = distinct_names(sources, joint="_")
    import torch

    from mrda.cli.degrade_steps import draw_steps

    with refusing():
        steps_of = _steps(settings)
        make_folder(output, "output folder")

    failed = done = 0
    with progress("degrading", len(sources)) as task:
        for source, name in zip(sources, names, strict=True):
            try:
                steps = list(steps_of(to_tensor(read_rgb(source)), torch.Generator().manual_seed(seed)))
                write_image(output / f"{name}_lr.png", to_array(steps[-1].image))
                if grid:
                    write_image(output / f"{name}_steps.png", draw_steps(steps))
            except ValueError as error:  # an unreadable photo, or one too small to be degraded
                _log.error("%s: %s", source, error)
                failed += 1
            except OSError as error:
                if is_full(error) or not is_storage_fault(error):
                    kept = f"{done} of {len(sources)} photos were degraded before"
                    refuse(f"{output} can't be written to: {reason(error)}; {kept}")
                # Otherwise it is this file's alone, such as too long a name.
                _log.error("%s: cannot write %s: %s", source, error.filename, reason(error))
                failed += 1
            else:
                done += 1
            task.advance()
    typer.echo(f"{len(sources) - failed} of {len(sources)} photos degraded into {output}", err=True)
    raise typer.Exit(1 if failed else 0)


def _steps(config: "TrainConfig") -> "Callable[[Tensor, torch.Generator], Iterable[Step]]":
    """Return a function that yields a photo (1, 3, H, W) before the first step and after each; the last image is LR."""
    from mrda.cli.degrade_steps import classic_steps
    from mrda.degradations.classic import ClassicDegradation, crop_to_multiple
    from mrda.degradations.real import RealDegradation

    if config.degradation.type == "real":
        return RealDegradation(config.scale, config.real, config.degradation, patch_size=None).steps
    classic = ClassicDegradation(config.scale, config.degradation)
    return lambda hr, generator: classic_steps(classic, crop_to_multiple(hr, classic.scale), generator)
