# SPDX-License-Identifier: Apache-2.0
"""A network as graphs that run without this package: ONNX, or torch.export's .pt2.

There are two graphs, so that the tiles of an image can share its degradation: ``den`` takes LR (B, 3, H, W) to the
raw IDR (B, D), ``rdan`` takes LR and the raw IDR to SR (B, 3, scale*H, scale*W), not clamped. Batch, height and width
are free, or fixed for engines that are faster, or only work, on a size known beforehand. For images that are too large
to be read at once, ``den`` may be two graphs: ``features`` takes a tile of any size to the map (B, N, h, w) whose mean
over all tiles ``head`` takes to the raw IDR.
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
from mrda.networks import BlindNetwork
from mrda.networks.den import Encoder
from mrda.networks.upscaler import CollapsedUpscaler
from mrda.options.export import check_size

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
"""The formats, and the suffixes of their files."""
Ends = tuple[tuple[str, ...], str]
"""Names of a graph's inputs and its output."""
GRAPHS: Mapping[str, Ends] = {"den": (("lr",), "degradation"), "rdan": (("lr", "degradation"), "sr")}
"""The graphs by the names of their files."""
TILE_GRAPHS: Mapping[str, Ends] = {
    "features": (("lr",), "features"),
    "head": (("mean",), "degradation"),
    "rdan": GRAPHS["rdan"],
}
"""The same with ``den`` in two."""
LIMITS = {torch.float32: 0.5 / 65535, torch.float16: 0.5 / 255}
"""By dtype, the error that is allowed: half a level of 16 bits, which no image file can show, or of 8 bits."""

_Size = tuple[int, int]
_CHECKED = ((1, 1, 1), (2, 5, 12), (3, 24, 17))  # batch, height and width


class ExportError(RuntimeError):
    """The exported graphs do not compute what the network computes, or not in the form that was asked for."""


class Format(NamedTuple):
    """The functions of one format."""

    write: Callable[[ExportedProgram, BinaryIO, Ends, Mapping[str, str], torch.dtype, bool], None]
    """Write a graph, given the names of inputs and output, the metadata, the dtype, and True to refuse nodes that
    compute shapes."""
    load: Callable[[Path], Callable[..., Tensor]]
    """Load a file as a function of tensors."""


def files(folder: Path, format: str, *, split_den: bool = False) -> list[Path]:
    """Return the files that :func:`export_student` writes.

    Raises:
        ValueError: ``format`` is none of :data:`SUFFIXES`.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format is {format!r}, but must be one of {', '.join(SUFFIXES)}")
    return [folder / f"{graph}{SUFFIXES[format]}" for graph in (TILE_GRAPHS if split_den else GRAPHS)]


def require_packages(format: str) -> None:
    """Raise ModuleNotFoundError if a package that ``format`` needs is missing; the message names the extra."""
    for module in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        require_package(module, name=module, user="the ONNX export", extra="export")


def export_student(
    network: BlindNetwork,
    folder: str | Path,
    format: str = "onnx",
    *,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    split_den: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> float:
    """Write the graphs, all or none, after checking that they compute what the network computes.

    Args:
        network: The student, or its sisters DASR and KDSR's student; it is not changed.
        folder: Where to write; it must exist. Files of these names there are replaced.
        format: "onnx" or "torch-export".
        size: Height and width of LR. The graphs then take one image of this size only, compute no shape, and as ONNX
            have grouped Conv nodes with predicted kernels; the upscaler is one convolution, as in prepared networks.
            None leaves batch, height and width free.
        dtype: float32, or float16 for weights and arithmetic of ONNX; inputs and outputs are float32 all the same.
        split_den: Write ``den`` as ``features`` and ``head``. ``features`` takes images of all sizes even if ``size``
            is given: tiles have to begin on the grid of its strides, but not to end there.
        metadata: Entries besides the network's own, such as a licence; all files get them.
        progress: Called with the share that is done, up to 1.

    Returns:
        The largest error of SR against the network in float32, on random images of several sizes, or of ``size``.

    Raises:
        TypeError: ``network`` is another one, or a size is not an int.
        ValueError: Another format or dtype, or a size that is not allowed, see `mrda.options.export.check_size`.
        ModuleNotFoundError: A package is missing; the message names the extra.
        ExportError: The error is above the limit of :data:`LIMITS`, relative to the largest value (at least 1), or a
            graph of a fixed size computes shapes.
    """
    if not isinstance(network, BlindNetwork):
        raise TypeError(f"network is {type(network).__name__}, but must be an MRDAStudent, a DASR or a KDSRStudent")
    if size is not None:
        for name, side in zip(("height", "width"), size, strict=True):
            check_int(f"{name} of size", side)
        check_size(*size)
    if dtype not in LIMITS or (format != "onnx" and dtype != torch.float32):
        raise ValueError(f"dtype is {dtype}, but must be float32, or float16 with the format onnx")
    targets = files(Path(folder), format, split_den=split_den)
    require_packages(format)
    write, load = _format(format)
    network = copy.deepcopy(network).to("cpu", torch.float32).eval()
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # others put bounds on free sizes
    graphs = TILE_GRAPHS if split_den else GRAPHS
    tell = progress or (lambda _: None)
    with ExitStack() as stack, torch.no_grad(), _quiet():
        written = [stack.enter_context(atomic_write(target)) for target in targets]
        for done, ((graph, ends), file) in enumerate(zip(graphs.items(), written, strict=True)):
            program = _trace(_traced(network, graph, size), network, ends[0], size)
            tell((done + 0.4) / len(graphs))
            write(program, file, ends, {**(metadata or {}), **_metadata(network, graph)}, dtype, size is not None)
            file.flush()
            tell((done + 0.8) / len(graphs))
        checked = _CHECKED if size is None else ((1, *size),)
        *parts, rdan = (load(Path(file.name)) for file in written)
        return _check(network, checked, _den_of(*parts), rdan, LIMITS[dtype])


def _format(name: str) -> Format:
    if name == "onnx":
        from mrda.export import onnx_format

        return Format(onnx_format.write, onnx_format.load)
    from mrda.export import torch_format

    return Format(torch_format.write, torch_format.load)


class _Features(nn.Module):
    """The part of an encoder before the mean."""

    def __init__(self, den: Encoder) -> None:
        super().__init__()
        self.den = den

    def forward(self, lr: Tensor) -> Tensor:
        return self.den.features(lr)


class _Head(nn.Module):
    """The part of an encoder after the mean."""

    def __init__(self, den: Encoder) -> None:
        super().__init__()
        self.den = den

    def forward(self, mean: Tensor) -> Tensor:
        return self.den.head(mean).clone()  # an encoder without a head returns its input


def _traced(network: BlindNetwork, graph: str, size: _Size | None) -> nn.Module:
    """Return the module that a graph is traced from."""
    if graph == "features":
        return _Features(network.den)
    if graph == "head":
        return _Head(network.den)
    module: nn.Module = getattr(network, graph)
    if size is not None and graph == "rdan":
        module = copy.deepcopy(module)
        module.upscaler = CollapsedUpscaler(network.rdan.upscaler)
    return module


def _trace(graph: nn.Module, network: BlindNetwork, inputs: tuple[str, ...], size: _Size | None) -> ExportedProgram:
    batch, sides = (2, (12, 14)) if size is None else (1, size)
    examples = {
        "lr": torch.zeros(batch, 3, *sides),
        "mean": network.den.features(torch.zeros(batch, 3, 1, 1)).mean(dim=(2, 3)),
        "degradation": torch.zeros(batch, network.rdan.idr_dim),
    }
    free: dict[str, dict[int, Dim]] = {name: {} for name in inputs}
    if size is None:
        free = {name: {0: Dim("batch", min=1)} for name in inputs}
    if "lr" in free and (size is None or isinstance(graph, _Features)):
        free["lr"] |= {2: Dim("height", min=1), 3: Dim("width", min=1)}
    # Without the patch a DEN refuses images whose inner maps are a single pixel high or wide; with it an RDAN refuses
    # batches of one.
    oblivious = isinstance(graph, Encoder | _Features)
    with _config.patch(backed_size_oblivious=oblivious):  # type: ignore[attr-defined]
        arguments = tuple(examples[name] for name in inputs)
        program = torch.export.export(graph, arguments, dynamic_shapes=tuple(free.values()))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would name folders of this machine
    return program


def _den_of(features: Callable[..., Tensor], head: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
    """Return ``den``, which may be in two parts."""
    return features if head is None else lambda lr: head(features(lr).mean(dim=(2, 3)))


def _metadata(network: BlindNetwork, graph: str) -> dict[str, str]:
    return {
        "graph": graph,
        "architecture": type(network).__name__,
        "scale": str(network.scale),
        "reach": str(network.rdan.reach),
        "den_reach": str(network.den.reach),
        "den_stride": str(network.den.stride),
        "hyperparameters": json.dumps(network.hyperparameters),
    }


def _check(
    network: BlindNetwork,
    shapes: Sequence[tuple[int, int, int]],
    den: Callable[..., Tensor],
    rdan: Callable[..., Tensor],
    limit: float,
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
        if not error <= limit * max(1.0, expected.abs().max().item()):  # NaN too
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
