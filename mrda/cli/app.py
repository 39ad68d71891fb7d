"""The command line's root, which the modules of the commands register with."""

import typer

app = typer.Typer(
    help="MRDA: blind image super-resolution by meta-learned degradation representations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
