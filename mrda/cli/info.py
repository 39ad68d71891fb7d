"""`mrda info`."""

from pathlib import Path
from typing import Annotated

import typer

from mrda.cli.app import app
from mrda.cli.common import refusing


@app.command(
    epilog="Example: mrda info runs/demo/student/weights.safetensors",
    short_help="Show versions, kernel backends, and what a weights file holds.",
)
def info(
    weights: Annotated[Path | None, typer.Argument(help="A weights file.", metavar="[WEIGHTS]")] = None,
) -> None:
    """Show versions and kernel backends; of a weights file the architecture, scale and parameters."""
    if weights is None:
        from mrda_kernels.info import report

        typer.echo(report())
        return
    from mrda.inference import load_weights

    with refusing():
        network = load_weights(weights)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    typer.echo(f"architecture  {type(network).__name__}")
    typer.echo(f"scale         {network.hyperparameters['scale']}")
    typer.echo(f"parameters    {parameters:,}")
    for key, value in network.hyperparameters.items():
        if key != "scale":
            typer.echo(f"{key:<13} {value}")
