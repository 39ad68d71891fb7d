# SPDX-License-Identifier: Apache-2.0
"""`mrda train`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from mrda.cli.app import app
from mrda.cli.common import refuse, refusing

if TYPE_CHECKING:
    from mrda.config import StageName
    from mrda.training import StagePlan

_log = logging.getLogger(__name__)


@app.command(
    epilog="Example: mrda train --config demo --set student.steps=2000 --run-dir runs/longer",
    short_help="Train the three stages.",
)
def train(
    config: Annotated[
        str | None,
        typer.Option(
            "--config", help="Name of a configuration or a YAML file; --list shows the names.", metavar="NAME"
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="recommended, paper, official, or a preset that the configuration defines.", metavar="NAME"
        ),
    ] = "recommended",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set one option; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Folder of the run (default: runs/NAME).", metavar="DIR")
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage", help="bicubic, meta, teacher or student; may be repeated (default: all).", metavar="STAGE"
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Continue from the checkpoints in the run directory, or start over."),
    ] = True,
    show_list: Annotated[bool, typer.Option("--list", help="List the configurations of the package.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the stages and the whole configuration; train nothing.")
    ] = False,
) -> None:
    """Train the MLN, the teacher and the student, in this order, or some of the stages.

    On several GPUs or machines: accelerate launch -m mrda train ..., or torchrun -m mrda train ...
    """
    from mrda.config.load import configs, load_config

    if show_list:
        typer.echo("\n".join(configs()))
        return
    if config is None:
        refuse("--config must name a configuration (see mrda train --list) or a YAML file")
    with refusing():
        settings = load_config(config, overrides or (), preset=preset)
    chosen = cast("list[StageName] | None", stages)  # `train` checks them
    if dry_run:
        from mrda.training.plan import plan_stage
        from mrda.training.run import in_order

        micro_batches = settings.train.micro_batches or 1
        with refusing():
            names = in_order(settings.train.stages if chosen is None else chosen)
            settings.check_stages(names)
        _print_plan([plan_stage(settings, name, done=0, micro_batches=micro_batches) for name in names])
        typer.echo(settings.to_yaml(), nl=False)
        return
    from mrda.training import Run, RunRefusedError, RunStoppedError

    if run_dir is None:
        name = config.replace("/", "-") if config in configs() else Path(config).stem
        run_dir = Path("runs") / (name if preset == "recommended" else f"{name}-{preset}")
    try:
        run = Run(settings, run_dir, stages=chosen, resume=resume)
        if run.is_main:
            _print_plan(run.plan())
        weights = run.train()
    except RunRefusedError as error:
        refuse(str(error))
    except (FloatingPointError, RunStoppedError) as error:
        _log.error(str(error))
        raise typer.Exit(1) from None
    if run.is_main:
        for stage, path in weights.items():
            typer.echo(f"{stage}: {path}")


def _print_plan(plans: "list[StagePlan]") -> None:
    """Print a table of the stages to stderr."""
    table = Table(title="Training plan")
    table.add_column("stage")
    for heading in (
        "steps",
        "done",
        "images\nper step",
        "parameters\ntrained",
        "parameters\nfrozen",
        "memory per\nprocess, about",
    ):
        table.add_column(heading, justify="right")
    for plan in plans:
        table.add_row(
            plan.name,
            f"{plan.steps:,}",
            f"{plan.done:,}",
            f"{plan.batch:,}",
            f"{plan.trained:,}",
            f"{plan.frozen:,}",
            f"{plan.memory / 2**30:.2f} GiB",
        )
    Console(stderr=True).print(table)
