# SPDX-License-Identifier: Apache-2.0
"""`mrda export`."""

import logging
import os
from typing import Annotated, Literal

import typer

from mrda.cli.app import app
from mrda.cli.common import OutputFolder, Weights, chosen_weights, progress, refuse, refusing
from mrda.core.faults import reason
from mrda.core.progress import Share

_log = logging.getLogger(__name__)


@app.command(
    epilog="Example: mrda export -w runs/demo/student/weights.safetensors -o exported",
    short_help="Write a student as ONNX or torch.export graphs.",
)
def export(
    output: OutputFolder,
    weights: Weights = None,
    format: Annotated[
        Literal["onnx", "torch-export"], typer.Option("--format", help="ONNX files, or .pt2 files of torch.export.")
    ] = "onnx",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing graphs.")] = False,
) -> None:
    """Write a student as two graphs, `den` and `rdan`, and print how much their results differ from PyTorch's.

    den computes the degradation (B, D) from LR (B, 3, H, W) in [0, 1]; rdan computes SR (B, 3, scale H, scale W) from
    LR and the degradation. Clip SR to [0, 1]. If you cut an image into tiles, use the degradation of the whole image.
    """
    from mrda.export import ExportError, export_student, files, require_packages
    from mrda.upscale.upscaler import load_student

    existing = [str(path) for path in files(output, format) if os.path.exists(path)]
    if existing and not overwrite:
        refuse(f"{' and '.join(existing)} exist already: give --overwrite to replace them")
    try:
        require_packages(format)
    except ModuleNotFoundError as error:
        refuse(str(error))
    with refusing():
        network = load_student(chosen_weights(weights))
    try:
        output.mkdir(parents=True, exist_ok=True)
        with progress("exporting", 1) as task:
            largest = export_student(network, output, format, progress=Share(task))
    except OSError as failure:
        refuse(f"the output folder {output} can't be written to: {reason(failure)}")
    except ExportError as failure:
        _log.error(str(failure))
        raise typer.Exit(1) from None
    written = " and ".join(str(path) for path in files(output, format))
    typer.echo(f"{written}: x{network.scale}, SR differs from PyTorch's by at most {largest:.1e}")
