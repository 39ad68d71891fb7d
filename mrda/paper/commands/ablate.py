# SPDX-License-Identifier: Apache-2.0
"""`mrda ablate`."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from mrda.cli.app import app
from mrda.cli.common import check_training, print_table, refuse, refusing

_log = logging.getLogger(__name__)


@app.command(
    epilog="Example: mrda ablate --budget 200 --data Set5 --run-dir runs/ablation",
    short_help="Train and compare the rows of the paper's ablation tables.",
)
def ablate(
    data: Annotated[
        list[str],
        typer.Option(
            "--data", help="Photos to measure on: a folder, a file or skimage:NAME; may be repeated.", metavar="PHOTO"
        ),
    ],
    study: Annotated[
        Literal["tables", "distillation"],
        typer.Option(
            "--study",
            help="The paper's Tables V and VI, or what lets the student learn from the teacher.",
            show_default=True,
        ),
    ] = "tables",
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget",
            min=1,
            help="Optimizer steps of every stage; with --study distillation those of the configuration by default, "
            "and rows by Adam take twice as many.",
            metavar="STEPS",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            help="The configuration that the rows change (default: demo; of distillation release/evidence-x4).",
            metavar="NAME|FILE",
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", help="recommended, paper or official.", metavar="NAME")
    ] = "recommended",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one option of the configuration; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Train everything with this many seeds.", metavar="N")
    ] = 1,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0, help="Difference up to which an ordering is undecided.", metavar="DB"),
    ] = 0.01,
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Folder of the study.", metavar="DIR")] = Path(
        "runs/ablation"
    ),
) -> None:
    """Train every row of Tables V and VI at a small budget, and check the paper's orderings.

    An ordering is undecided if the difference is within the tolerance, or within twice its standard error over the
    seeds: differences of a few hundredths of a dB say nothing about one seed.

    An interrupted study resumes with the same command. The report is RUN_DIR/ablation.md and .json; that of
    --study distillation is RUN_DIR/distillation.md and .json, with two pictures.
    """
    from mrda.config.load import load_config
    from mrda.photo.images import find_images, read_size

    base = config or ("demo" if study == "tables" else "release/evidence-x4")
    with refusing():
        load_config(base, overrides or (), preset=preset)
        photos = {Path(source).name: find_images([source]) for source in data}
        for found in photos.values():
            for photo in found:  # before torch is imported
                read_size(photo)
        if study == "tables" and budget is None:
            raise ValueError("--budget is missing, which --study tables requires: give the steps of every stage")
        if study == "distillation" and preset != "recommended":
            raise ValueError("--preset must be left out with --study distillation, whose rows are compared with it")
    check_training()
    from mrda.paper import ablation, distillation
    from mrda.training import RunRefusedError

    try:
        if study == "distillation":
            steps = () if budget is None else (f"train.steps={budget}",)
            table = distillation.ablate(
                base, run_dir, photos, seeds=range(1, seeds + 1), overrides=(*(overrides or ()), *steps)
            )
        else:
            assert budget is not None
            every = [photo for found in photos.values() for photo in found]
            report = ablation.ablate(
                base,
                budget,
                run_dir,
                every,
                overrides=overrides or (),
                preset=preset,
                seeds=seeds,
                tolerance=tolerance,
            )
            table = ablation.markdown(report)
    except (RunRefusedError, ModuleNotFoundError) as error:
        refuse(str(error))
    except FloatingPointError as error:
        _log.error(str(error))
        raise typer.Exit(1) from None
    print_table(table)
    typer.echo(f"{run_dir / ('ablation.md' if study == 'tables' else 'distillation.md')}", err=True)
