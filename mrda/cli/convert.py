"""`mrda convert`."""

from pathlib import Path
from typing import Annotated

import typer

from mrda.cli.app import app
from mrda.cli.common import check_output_file, refuse, refusing


@app.command(
    epilog="Example: mrda convert iso_ST.pth iso_student.safetensors",
    short_help="Convert the authors' weights into ours and back.",
)
def convert(
    source: Annotated[Path, typer.Argument(help="The weights to read.", metavar="IN")],
    target: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT where it exists.")] = False,
) -> None:
    """Convert weights between the authors' format (.pth or .pt) and ours (.safetensors), as the suffixes say.

    No number changes: the result is in float32, narrower numbers fit it, and a file with wider ones that do not, or
    with a network that the other format cannot express, is refused. Only weights are converted, taken from under
    params_ema, params or state_dict where the file wraps them.
    """
    from mrda.networks import convert_weights

    check_output_file("OUT", target)
    if target.exists() and not overwrite and not (source.exists() and target.samefile(source)):
        refuse(f"{target} exists already; --overwrite would replace it")
    with refusing():
        try:
            network = convert_weights(source, target)
        except OSError as error:
            refuse(f"{target} can't be written: {error.strerror or error}")
    typer.echo(f"{target}: {type(network).__name__} x{network.scale}")
