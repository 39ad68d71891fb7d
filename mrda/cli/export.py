# SPDX-License-Identifier: Apache-2.0
"""`mrda export`."""

import logging
import os
from typing import Annotated, Literal

import typer

from mrda.cli.app import app
from mrda.cli.common import (
    OutputFolder,
    Strength,
    Weights,
    check_strength,
    chosen_weights,
    progress,
    refuse,
    refusing,
)
from mrda.core.faults import reason
from mrda.core.progress import Share
from mrda.options.export import parse_size

_log = logging.getLogger(__name__)


@app.command(
    epilog="Example: mrda export -w runs/demo/student/weights.safetensors -o exported",
    short_help="Write a student as ONNX or torch.export graphs.",
)
def export(
    output: OutputFolder,
    weights: Weights = None,
    strength: Strength = None,
    format: Annotated[
        Literal["onnx", "torch-export"], typer.Option("--format", help="ONNX files, or .pt2 files of torch.export.")
    ] = "onnx",
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Height and width of LR, such as 192x256, that the graphs are fixed to (default: any size).",
        ),
    ] = None,
    dtype: Annotated[
        Literal["fp32", "fp16"],
        typer.Option("--dtype", help="Precision of the weights and the arithmetic; fp16 only as ONNX."),
    ] = "fp32",
    split_den: Annotated[
        bool, typer.Option("--split-den", help="Write den as two graphs, for images that are read in tiles.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing graphs.")] = False,
) -> None:
    """Write a student as two graphs, `den` and `rdan`, and print how much their results differ from PyTorch's.

    den computes the degradation (B, D) from LR (B, 3, H, W) in [0, 1]; rdan computes SR (B, 3, scale H, scale W) from
    LR and the degradation. Clip SR to [0, 1]. If you cut an image into tiles, use the degradation of the whole image;
    with --split-den, it is head of the mean of the features of all tiles.
    """
    if dtype == "fp16" and format != "onnx":
        refuse("--dtype fp16 is for --format onnx: torch's programs are converted with torch itself")
    with refusing():
        fixed = None if size is None else parse_size(size)
    weights = chosen_weights(weights)
    check_strength(weights, strength)
    import torch

    from mrda.export import ExportError, export_student, files, require_packages
    from mrda.networks.checkpoints import further_metadata
    from mrda.upscale.strength import load_between
    from mrda.upscale.upscaler import load_student
    from mrda.upscale.weights import find_weights

    paths = files(output, format, split_den=split_den)
    existing = [str(path) for path in paths if os.path.exists(path)]
    if existing and not overwrite:
        refuse(f"{' and '.join(existing)} exist already: give --overwrite to replace them")
    try:
        require_packages(format)
    except ModuleNotFoundError as error:
        refuse(str(error))
    with refusing():
        if strength is None:
            network, metadata = load_student(weights), further_metadata(find_weights(weights))
        else:
            network, metadata = load_between(weights, strength)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with progress("exporting", 1) as task:
            largest = export_student(
                network,
                output,
                format,
                size=fixed,
                dtype=torch.float16 if dtype == "fp16" else torch.float32,
                split_den=split_den,
                metadata=metadata,
                progress=Share(task),
            )
    except OSError as failure:
        refuse(f"the output folder {output} can't be written to: {reason(failure)}")
    except ExportError as failure:
        _log.error(str(failure))
        raise typer.Exit(1) from None
    *others, last = map(str, paths)
    typer.echo(f"{', '.join(others)} and {last}: x{network.scale}, SR differs from PyTorch's by at most {largest:.1e}")
