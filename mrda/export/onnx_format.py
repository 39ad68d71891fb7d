# SPDX-License-Identifier: Apache-2.0
"""ONNX files. A Conv of ONNX has a fixed number of groups.

So kernels per sample become shifts, products and sums where the batch is free, and a Conv with a group for each channel
where the shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import onnxruntime
import torch
from onnxscript import opset18
from torch import Tensor
from torch.export import ExportedProgram

import mrda_kernels  # noqa: F401  # registers the operators
from mrda_kernels.call import RdaCall

OPSET = 18
op: Any = opset18  # its type annotations do not cover graphs that are being built
_END = 2**31 - 1  # as the end of a slice: up to the last element


def write(
    program: ExportedProgram, file: BinaryIO, inputs: tuple[str, ...], output: str, metadata: Mapping[str, str]
) -> None:
    """Write a graph, with the names of its inputs and its output, and metadata as the file's properties."""
    is_free = bool(program.range_constraints)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        optimize=False,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=[output],
        # only the first one's vary
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"}, {})[: len(inputs)] if is_free else None,
        custom_translation_table={
            torch.ops.mrda_kernels.rda_conv2d.default: _rda_conv2d,
            torch.ops.mrda_kernels.dynamic_depthwise_conv2d.default: _dynamic_depthwise_conv2d,
        },
    )
    assert exported is not None  # it would be None if a file had been named
    for node in exported.model.graph:
        node.metadata_props.clear()  # the origin of each node in PyTorch: a tenth of the file
    exported.model.metadata_props.update(metadata)
    file.write(exported.model_proto.SerializeToString())


def load(path: Path) -> Callable[..., Tensor]:
    """Load a file as a function of tensors, on the CPU."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*tensors: Tensor) -> Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def _dynamic_depthwise_conv2d(input: Any, weight: Any, backend: str | None = None) -> Any:
    size = weight.shape[-1]
    pad = size // 2
    if all(isinstance(length, int) for length in input.shape):
        return _grouped(input, weight, pad)
    padded = op.Pad(input, op.Constant(value_ints=[0, 0, pad, pad, 0, 0, pad, pad]))
    # (B, C, K, K) to K*K times (B, C, 1, 1)
    taps = op.Split(op.Reshape(weight, op.Constant(value_ints=[0, 0, -1, 1])), axis=2, num_outputs=size * size)
    total = None
    for place, tap in enumerate(taps if size > 1 else [taps]):
        start = place // size, place % size
        end = [first - 2 * pad or _END for first in start]
        axes = op.Constant(value_ints=[2, 3])
        shifted = op.Slice(padded, op.Constant(value_ints=list(start)), op.Constant(value_ints=end), axes)
        product = op.Mul(shifted, tap)
        total = product if total is None else op.Add(total, product)
    return total


def _grouped(input: Any, weight: Any, pad: int) -> Any:
    """Compute it as one Conv of a single image of fixed shape."""
    channels, size = input.shape[1], weight.shape[-1]
    filters = op.Reshape(weight, op.Constant(value_ints=[channels, 1, size, size]))
    return op.Conv(input, filters, group=channels, kernel_shape=[size, size], pads=[pad] * 4)


def _rda_conv2d(*inputs: Any) -> Any:
    call = RdaCall(*inputs[:-1])  # of graph values in place of tensors
    features = op.LeakyRelu(_dynamic_depthwise_conv2d(call.input, call.weight), alpha=call.negative_slope)
    mask = op.Sigmoid(op.Conv(call.input, call.mask_weight, call.mask_bias))
    out = op.Add(op.Mul(features, mask), call.input)
    slope = call.output_negative_slope
    return out if slope is None else op.LeakyRelu(out, alpha=slope)
