"""`mrda export`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from mrda.cli.app import app
from mrda.cli.common import Weights, chosen_weights, progress, refuse, refusing


@app.command(
    epilog="Example: mrda export -w runs/demo/student/weights.safetensors -o exported",
    short_help="Write a student as ONNX or torch.export graphs.",
)
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write to; made if missing.")],
    weights: Weights = None,
    format: Annotated[
        Literal["onnx", "torch-export"], typer.Option("--format", help="ONNX files, or torch.export's .pt2.")
    ] = "onnx",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace graphs that are there already.")] = False,
) -> None:
    """Write a student as two graphs, `den` and `rdan`, and say how far they are from the network.

    den takes LR (B, 3, H, W) in [0, 1] to the degradation (B, D); rdan takes LR and the degradation to SR (B, 3,
    scale H, scale W), which is to be clipped to [0, 1]. Tiles of an image share its degradation.
    """
    from mrda.export import ExportError, export_student, files, require_packages
    from mrda.upscale.upscaler import load_student

    existing = [str(path) for path in files(output, format) if os.path.exists(path)]
    if existing and not overwrite:
        refuse(f"{' and '.join(existing)} exist already; --overwrite would replace them")
    try:
        require_packages(format)
    except ModuleNotFoundError as error:
        refuse(str(error))
    with refusing():
        network = load_student(chosen_weights(weights))
    try:
        output.mkdir(parents=True, exist_ok=True)
        with progress("exporting", 1) as bar:
            (task,) = bar.task_ids
            largest = export_student(network, output, format, progress=lambda part: bar.update(task, completed=part))
    except OSError as failure:
        refuse(f"the output folder {output} can't be written to: {failure.strerror or failure}")
    except ExportError as failure:
        typer.echo(f"mrda: {failure}", err=True)
        raise typer.Exit(1) from None
    written = " and ".join(str(path) for path in files(output, format))
    typer.echo(f"{written}: x{network.scale}, SR at most {largest:.1e} from PyTorch's")
