# SPDX-License-Identifier: Apache-2.0
"""`mrda ablate`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from mrda.cli.app import app
from mrda.cli.common import print_table, refuse, refusing

_log = logging.getLogger(__name__)


@app.command(
    epilog="Example: mrda ablate --budget 200 --data Set5 --run-dir runs/ablation",
    short_help="Train and compare the rows of the paper's ablation tables.",
)
def ablate(
    budget: Annotated[int, typer.Option("--budget", min=1, help="Optimizer steps of every stage.", metavar="STEPS")],
    data: Annotated[
        list[str],
        typer.Option(
            "--data", help="Photos to measure on: a folder, a file or skimage:NAME; may be repeated.", metavar="PHOTO"
        ),
    ],
    config: Annotated[
        str, typer.Option("--config", help="The configuration that the rows change.", metavar="NAME|FILE")
    ] = "demo",
    preset: Annotated[
        str, typer.Option("--preset", help="recommended, paper or official.", metavar="NAME")
    ] = "recommended",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one option of the configuration; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Folder of the study.", metavar="DIR")] = Path(
        "runs/ablation"
    ),
) -> None:
    """Train every row of Tables V and VI at a small budget, and check the paper's orderings.

    An interrupted study resumes with the same command. The report is RUN_DIR/ablation.md and .json.
    """
    from mrda.paper.ablation import ablate as study
    from mrda.paper.ablation import markdown
    from mrda.photo.images import find_images
    from mrda.training import RunRefusedError

    with refusing():
        photos = find_images(data)
    try:
        report = study(
            config,
            budget,
            run_dir,
            photos,
            overrides=overrides or (),
            preset=preset,
        )
    except (RunRefusedError, ModuleNotFoundError) as error:
        refuse(str(error))
    except FloatingPointError as error:
        _log.error(str(error))
        raise typer.Exit(1) from None
    print_table(markdown(report))
    typer.echo(f"{run_dir / 'ablation.md'}", err=True)
