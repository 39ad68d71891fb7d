# SPDX-License-Identifier: Apache-2.0
"""`mrda train`."""

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from mrda.cli.app import app
from mrda.cli.common import Overrides, Preset, check_training, refuse, refusing

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
    preset: Preset = "recommended",
    overrides: Overrides = None,
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
        bool, typer.Option("--dry-run", help="Show the whole configuration and the stages; train nothing.")
    ] = False,
) -> None:
    """Train the MLN, the teacher and the student, in this order, or some of the stages.

    On several GPUs or machines: accelerate launch -m mrda train ..., or torchrun -m mrda train ...
    """
    from mrda.config.load import configs, descriptions, load_config

    if show_list:
        about = descriptions()
        width = max(map(len, about))
        typer.echo("\n".join(f"{name:<{width}}  {text}" for name, text in about.items()))
        return
    if config is None:
        refuse("--config must name a configuration (see mrda train --list) or a YAML file")
    if stages and any(change.startswith("train.stages=") for change in overrides or ()):
        refuse("--stage replaces train.stages: give one of them")
    with refusing():
        settings = load_config(config, overrides or (), preset=preset)
    check_training()
    chosen = cast("list[StageName] | None", stages)  # `train` checks them
    if dry_run:
        from mrda.core.durations import in_words
        from mrda.training.plan import plan_stage
        from mrda.training.run import in_order
        from mrda.training.timing import estimated_seconds

        micro_batches = settings.train.micro_batches or 1
        with refusing():
            names = in_order(settings.train.stages if chosen is None else chosen)
            settings.check_stages(names)
        plans = [plan_stage(settings, name, done=0, micro_batches=micro_batches) for name in names]
        typer.echo(settings.to_yaml(), nl=False)
        _print_plan(plans)
        _log.info("on this machine the training takes about %s", in_words(estimated_seconds(settings, names)))
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
        run.processes.leave()
    except RunRefusedError as error:
        refuse(str(error))
    except (FloatingPointError, RunStoppedError) as error:
        _log.error(str(error))
        raise typer.Exit(1) from None
    if run.is_main:
        for stage, path in weights.items():
            typer.echo(f"{stage}: {path}")
            if (best := path.with_name("best.safetensors")).is_file():
                typer.echo(f"{stage}, best of the validation: {_validated(best)}: {best}")
        last, path = list(weights.items())[-1]
        typer.echo(f"next: {_next_command(last, path)}", err=True)


def _validated(best: Path) -> str:
    """Return the scores that a file of best weights names."""
    from mrda.networks import read_metadata

    said = read_metadata(best)
    beside = f" beside bicubic's {float(said['psnr_y_bicubic']):.2f}" if "psnr_y_bicubic" in said else ""
    return f"PSNR-Y {float(said['psnr_y']):.2f} dB{beside}, at step {said['step']}"


def _next_command(stage: str, path: Path) -> str:
    """Return the command that shows what the last stage gave; the validation's best weights go before the last ones."""
    best = path.with_name("best.safetensors")
    weights = shlex.quote(str(best if best.is_file() else path))
    if stage == "student":
        return f"mrda upscale photo.jpg -o enlarged -w {weights}"
    if stage == "teacher" and (mln := path.parents[1] / "meta" / path.name).is_file():
        return f"mrda evaluate -w {weights} --mln {shlex.quote(str(mln))} --data DIR"
    return f"mrda evaluate -w {weights} --data DIR"


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
