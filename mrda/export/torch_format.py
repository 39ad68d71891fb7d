"""torch.export's .pt2 files, of torch's own operators alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mrda_kernels import reference

METADATA = "mrda.json"
"""The entry of the file that holds the metadata."""


def write(
    program: ExportedProgram, path: Path, inputs: tuple[str, ...], output: str, metadata: Mapping[str, str]
) -> None:
    """Write a graph; the names are of no use, for it takes its inputs by place."""
    if any(node.target in _PLAIN for node in program.graph.nodes):
        program = program.run_decompositions(_PLAIN)
    buffer = io.BytesIO()  # a file's name would go into the file
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(dict(metadata))})
    path.write_bytes(buffer.getvalue())


def load(path: Path) -> Callable[..., Tensor]:
    """Make a function of tensors of a file."""
    return torch.export.load(path).module()


def _dynamic_depthwise_conv2d(input: Tensor, weight: Tensor, backend: str | None = None) -> Tensor:
    return reference.dynamic_depthwise_conv2d(input, weight)


def _rda_conv2d(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None,
    negative_slope: float,
    output_negative_slope: float | None,
    backend: str | None = None,
) -> Tensor:
    return reference.rda_conv2d(
        input,
        weight,
        mask_weight,
        mask_bias,
        negative_slope=negative_slope,
        output_negative_slope=output_negative_slope,
    )


_PLAIN = {
    torch.ops.mrda_kernels.rda_conv2d.default: _rda_conv2d,
    torch.ops.mrda_kernels.dynamic_depthwise_conv2d.default: _dynamic_depthwise_conv2d,
}
"""Our operators by those of torch."""
