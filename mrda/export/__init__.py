# SPDX-License-Identifier: Apache-2.0
"""A student as graphs that run without this package: ONNX, or torch.export's .pt2.

There are two graphs, so that the tiles of an image can share its degradation: ``den`` takes LR (B, 3, H, W) to the
raw IDR (B, D), ``rdan`` takes LR and the raw IDR to SR (B, 3, scale*H, scale*W), not clamped. Batch, height and width
are free, or fixed for engines that are faster, or only work, on a size known beforehand.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from mrda.core.checks import check_int
from mrda.core.files import atomic_write
from mrda.core.packages import require_package
from mrda.networks import DEN, MRDAStudent
from mrda.networks.upscaler import CollapsedUpscaler

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
"""The formats, and the suffixes of their files."""
GRAPHS = {"den": (("lr",), "degradation"), "rdan": (("lr", "degradation"), "sr")}
"""The graphs by the names of their files: inputs and output."""
LIMIT = 0.5 / 65535
"""Error that no image file can show: half a level of 16 bits."""

_Size = tuple[int, int]
_CHECKED = ((1, 1, 1), (2, 5, 12), (3, 24, 17))  # batch, height and width


class ExportError(RuntimeError):
    """The exported graphs do not compute what the network computes."""


class Format(NamedTuple):
    """The functions of one format."""

    write: Callable[[ExportedProgram, BinaryIO, tuple[str, ...], str, Mapping[str, str]], None]
    """Write a graph, given the names of inputs and output and the metadata."""
    load: Callable[[Path], Callable[..., Tensor]]
    """Load a file as a function of tensors."""


def files(folder: Path, format: str) -> list[Path]:
    """Return the files that :func:`export_student` writes.

    Raises:
        ValueError: ``format`` is none of :data:`SUFFIXES`.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format is {format!r}, but must be one of {', '.join(SUFFIXES)}")
    return [folder / f"{graph}{SUFFIXES[format]}" for graph in GRAPHS]


def require_packages(format: str) -> None:
    """Raise ModuleNotFoundError if a package that ``format`` needs is missing; the message names the extra."""
    for module in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        require_package(module, name=module, user="the ONNX export", extra="export")


def export_student(
    network: MRDAStudent,
    folder: str | Path,
    format: str = "onnx",
    *,
    size: tuple[int, int] | None = None,
    progress: Callable[[float], None] | None = None,
) -> float:
    """Write ``den`` and ``rdan``, both or none, after checking that they compute what the network computes.

    Args:
        network: The student, which is not changed.
        folder: Where to write; it must exist. Files of these names there are replaced.
        format: "onnx" or "torch-export".
        size: Height and width of LR. The graphs then take one image of this size only, compute no shape, and as ONNX
            have grouped Conv nodes with predicted kernels; the upscaler is one convolution, as in prepared networks.
            None leaves batch, height and width free.
        progress: Called with the share that is done, up to 1.

    Returns:
        The largest error of SR against the network, float32 both, on random images of several sizes, or of ``size``.

    Raises:
        TypeError: ``network`` is another one, or a size is not an int.
        ValueError: Another format, or a size below 1.
        ModuleNotFoundError: A package is missing; the message names the extra.
        ExportError: The error is above :data:`LIMIT`, relative to the largest value (at least 1).
    """
    if not isinstance(network, MRDAStudent):
        raise TypeError(f"network is {type(network).__name__}, but must be an MRDAStudent")
    for name, side in zip(("height", "width"), size or (), strict=False):
        check_int(f"{name} of size", side)
    targets = files(Path(folder), format)
    require_packages(format)
    write, load = _format(format)
    network = copy.deepcopy(network).to("cpu", torch.float32).eval()
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # others put bounds on free sizes
    checked = _CHECKED if size is None else ((1, *size),)
    tell = progress or (lambda _: None)
    with ExitStack() as stack, torch.no_grad(), _quiet():
        written = [stack.enter_context(atomic_write(target)) for target in targets]
        for done, (graph, file) in enumerate(zip(GRAPHS, written, strict=True)):
            inputs, output = GRAPHS[graph]
            program = _trace(_traced(network, graph, size), network.rdan.idr_dim, len(inputs), size)
            tell(done / 2 + 0.2)
            write(program, file, inputs, output, _metadata(network, graph))
            file.flush()
            tell(done / 2 + 0.4)
        return _check(network, checked, *(load(Path(file.name)) for file in written))


def _format(name: str) -> Format:
    if name == "onnx":
        from mrda.export import onnx_format

        return Format(onnx_format.write, onnx_format.load)
    from mrda.export import torch_format

    return Format(torch_format.write, torch_format.load)


def _traced(network: MRDAStudent, graph: str, size: _Size | None) -> nn.Module:
    """Return the module that a graph is traced from."""
    module: nn.Module = getattr(network, graph)
    if size is not None and graph == "rdan":
        module = copy.deepcopy(module)
        module.upscaler = CollapsedUpscaler(network.rdan.upscaler)
    return module


def _trace(graph: nn.Module, idr_dim: int, inputs: int, size: _Size | None) -> ExportedProgram:
    if size is None:
        batch, height, width = Dim("batch", min=1), Dim("height", min=1), Dim("width", min=1)
        arguments = torch.zeros(2, 3, 12, 14), torch.zeros(2, idr_dim)
        free = ({0: batch, 2: height, 3: width}, {0: batch})[:inputs]
    else:
        arguments, free = (torch.zeros(1, 3, *size), torch.zeros(1, idr_dim)), None
    # Without the patch a DEN refuses images whose inner maps are a single pixel high or wide; with it an RDAN refuses
    # batches of one.
    with _config.patch(backed_size_oblivious=isinstance(graph, DEN)):  # type: ignore[attr-defined]
        program = torch.export.export(graph, arguments[:inputs], dynamic_shapes=free)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would name folders of this machine
    return program


def _metadata(network: MRDAStudent, graph: str) -> dict[str, str]:
    return {
        "graph": graph,
        "architecture": type(network).__name__,
        "scale": str(network.scale),
        "reach": str(network.rdan.reach),
        "hyperparameters": json.dumps(network.hyperparameters),
    }


def _check(
    network: MRDAStudent,
    shapes: Sequence[tuple[int, int, int]],
    den: Callable[..., Tensor],
    rdan: Callable[..., Tensor],
) -> float:
    """Return the largest error of all; raises ExportError if it is above the limit."""
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch, height, width in shapes:
        lr = torch.rand(batch, 3, height, width, generator=generator)
        expected, found = network(lr), rdan(lr, den(lr))
        if found.shape != expected.shape:
            raise ExportError(f"the graphs give {tuple(found.shape)} for {tuple(lr.shape)}: nothing is written")
        error = (found - expected).abs().max().item()
        if not error <= LIMIT * max(1.0, expected.abs().max().item()):  # NaN too
            raise ExportError(f"the graphs differ from the network by {error:.2g}: nothing is written")
        largest = max(largest, error)
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence remarks of torch's exporters on themselves: that torchvision is missing, or that a name is deprecated."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
