"""`mrda figures`: the paper's figures, a command each, registered by the modules figures_*."""

import typer

from mrda.cli.app import app

figures = typer.Typer(
    help="Draw the paper's figures; each writes a PNG and, beside it, a CSV with the data behind it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(figures, name="figures")
