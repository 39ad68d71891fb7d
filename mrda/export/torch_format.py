# SPDX-License-Identifier: Apache-2.0
"""Files of torch.export (.pt2) that use only torch's own operators."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mrda.export import Ends
from mrda_kernels import reference
from mrda_kernels.call import RdaCall

METADATA = "mrda.json"
"""The entry of the file that holds the metadata."""


def write(
    program: ExportedProgram, file: BinaryIO, ends: Ends, metadata: Mapping[str, str], dtype: torch.dtype, fixed: bool
) -> None:
    """Write a graph in float32; the names are ignored, because it takes its inputs by position."""
    if any(node.target in _PLAIN for node in program.graph.nodes):
        program = program.run_decompositions(_PLAIN)
    buffer = io.BytesIO()  # torch.export.save would write a file's name into the file
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(dict(metadata))})
    file.write(buffer.getbuffer())


def load(path: Path) -> Callable[..., Tensor]:
    """Load a file as a function of tensors."""
    return torch.export.load(path).module()


def _forward(*inputs: Any) -> Tensor:
    """Compute either operator: a call's arguments and the backend."""
    return reference.forward(RdaCall.of(inputs[:-1]))


_PLAIN = {
    torch.ops.mrda_kernels.rda_conv2d.default: _forward,
    torch.ops.mrda_kernels.dynamic_depthwise_conv2d.default: _forward,
}
"""Decompositions of our operators into torch's."""
