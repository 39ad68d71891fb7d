# SPDX-License-Identifier: Apache-2.0
"""`mrda convert`."""

from pathlib import Path
from typing import Annotated

import typer

from mrda.cli.app import app
from mrda.cli.common import check_output_file, chosen_weights, refuse, refusing
from mrda.core.faults import reason


@app.command(
    epilog="Example: mrda convert mrda-x4 mrda-x4.pth",
    short_help="Convert weights between the authors' format and ours.",
)
def convert(
    source: Annotated[Path, typer.Argument(help="Weights to read: a file, or a name as for -w.", metavar="IN")],
    target: Annotated[Path, typer.Argument(help="File to write.", metavar="OUT")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Convert weights between the authors' format (.pth or .pt) and ours (.safetensors), according to the suffixes.

    The conversion is exact: the result is in float32; weights that float32 cannot represent, and networks that the
    other format cannot express, are refused. Licence, data, recipe, stage and step are kept; of a training checkpoint
    only the weights are converted. If the file wraps them in params_ema, params or state_dict, they are taken from
    there.
    """
    check_output_file("OUT", target)
    if target.exists() and not overwrite and not (source.exists() and target.samefile(source)):
        refuse(f"{target} exists already: give --overwrite to replace it")
    chosen_weights(source)
    from mrda.networks import convert_weights
    from mrda.upscale.weights import find_weights

    with refusing():
        try:
            network = convert_weights(find_weights(source), target)
        except OSError as error:
            refuse(f"{target} can't be written: {reason(error)}")
    typer.echo(f"{target}: {type(network).__name__} x{network.scale}")
