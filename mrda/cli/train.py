"""`mrda train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mrda.cli.app import app
from mrda.cli.common import refuse, refusing

if TYPE_CHECKING:
    from mrda.config import StageName


@app.command(
    epilog="Example: mrda train --config demo --set student.steps=2000 --run-dir runs/longer",
    short_help="Train the three stages.",
)
def train(
    config: Annotated[str, typer.Option("--config", help="A preset's name or a YAML file.", metavar="NAME|PATH")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one option; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where the run lives; runs/NAME if not given.")
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", help="bicubic, meta, teacher or student; may be repeated; all if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the checkpoints in the run directory.")
    ] = True,
) -> None:
    """Train the MLN, the teacher and the student, in this order, or some of the stages."""
    from mrda.config import load_config
    from mrda.training import RunRefusedError
    from mrda.training import train as run_training

    with refusing():
        settings = load_config(config, overrides or ())
    run_dir = run_dir or Path("runs") / Path(config).stem
    chosen = cast("list[StageName] | None", stages)  # `train` checks them
    try:
        weights = run_training(settings, run_dir, stages=chosen, resume=resume)
    except RunRefusedError as error:
        refuse(str(error))
    except FloatingPointError as error:
        typer.echo(f"mrda: {error}", err=True)
        raise typer.Exit(1) from None
    for stage, path in weights.items():
        typer.echo(f"{stage}: {path}")
