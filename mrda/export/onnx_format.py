# SPDX-License-Identifier: Apache-2.0
"""ONNX files. A Conv of ONNX has a fixed number of groups.

So kernels per sample become shifts, products and sums where the batch is free, and a Conv with a group for each channel
where the shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes.common import TopologicalSortPass
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxscript import opset18
from torch import Tensor
from torch.export import ExportedProgram

import mrda_kernels  # noqa: F401  # registers the operators
from mrda.export import Ends, ExportError
from mrda_kernels.call import RdaCall

OPSET = 18
op: Any = opset18  # its type annotations do not cover graphs that are being built
SHAPE_NODES = frozenset({"Shape", "Size", "Gather", "Mod", "Expand", "If", "Loop"})
"""Nodes that compute shapes, or depend on them: engines for phones and browsers lack them or are slow with them."""
_END = 2**31 - 1  # as the end of a slice: up to the last element


def write(
    program: ExportedProgram, file: BinaryIO, ends: Ends, metadata: Mapping[str, str], dtype: torch.dtype, fixed: bool
) -> None:
    """Write a graph, with the names of its inputs and its output, and metadata as the file's properties.

    Raises:
        ExportError: The graph should be ``fixed``, but has nodes that compute shapes.
    """
    inputs, output = ends
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        optimize=False,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=_free_axes(program),
        custom_translation_table={
            torch.ops.mrda_kernels.rda_conv2d.default: _rda_conv2d,
            torch.ops.mrda_kernels.dynamic_depthwise_conv2d.default: _dynamic_depthwise_conv2d,
        },
    )
    assert exported is not None  # it would be None if a file had been named
    model = exported.model
    if fixed and (found := sorted({node.op_type for node in model.graph} & SHAPE_NODES)):
        raise ExportError(f"the graph of a fixed size has the nodes {', '.join(found)}: nothing is written")
    if dtype == torch.float16:
        model = _in_half_precision(exported.model_proto)
    for node in model.graph:
        node.metadata_props.clear()  # the origin of each node in PyTorch: a tenth of the file
    model.metadata_props.update(metadata)
    file.write(ir.to_proto(model).SerializeToString())


def _free_axes(program: ExportedProgram) -> tuple[dict[int, str], ...] | None:
    """Return the names of the axes of each input that vary, or None if none does."""
    if not program.range_constraints:
        return None
    first, *others = (
        node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    )
    names = {0: "batch", 2: "height", 3: "width"}
    free = {axis: names[axis] for axis, length in enumerate(first.shape) if not isinstance(length, int)}
    return free, *({} for _ in others)  # whose axes vary with the first one's


def _in_half_precision(proto: onnx.ModelProto) -> ir.Model:
    """Return a model with weights and arithmetic in float16; the mean over an image, inputs and outputs are float32."""
    converted = convert_float_to_float16(proto, keep_io_types=True, op_block_list=["ReduceMean"])
    del converted.graph.value_info[:]  # some of the types are still the former ones
    model = ir.from_proto(converted)
    TopologicalSortPass()(model)  # casts of inputs stand last
    return model


def load(path: Path) -> Callable[..., Tensor]:
    """Load a file as a function of tensors, on the CPU."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*tensors: Tensor) -> Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def _dynamic_depthwise_conv2d(input: Any, weight: Any, negative_slope: float, backend: str | None = None) -> Any:
    out = _convolved(input, weight)
    return out if negative_slope == 1 else op.LeakyRelu(out, alpha=negative_slope)


def _convolved(input: Any, weight: Any) -> Any:
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
    features = _dynamic_depthwise_conv2d(call.input, call.weight, call.negative_slope)
    mask = op.Sigmoid(op.Conv(call.input, call.mask_weight, call.mask_bias))
    out = op.Add(op.Mul(features, mask), call.input)
    slope = call.output_negative_slope
    return out if slope is None else op.LeakyRelu(out, alpha=slope)
