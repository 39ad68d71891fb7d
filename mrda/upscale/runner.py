# SPDX-License-Identifier: Apache-2.0
"""Running a prepared network: on a GPU, CUDA graphs replay the sizes of images that come again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrda.core.cuda_graphs import beside, capture, fastest_convolutions
from mrda.networks.prepared import PreparedRDAN, PreparedStudent

GRAPHS = 4
"""CUDA graphs that are kept at a time: those of the sizes that came last."""
GRAPH_PIXELS = 2**17
"""LR pixels above which a graph saves no time, because launches are short beside the kernels, and only takes memory."""

Kind = tuple[object, ...]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    sr: Tensor


class GraphRunner:
    """Calls a prepared network, from any number of threads.

    On a GPU all of its kernels are captured as a CUDA graph once a size of LR comes a second time, and replayed from
    then on: one launch instead of some two hundred. Of a student that is given LR alone, the graph includes the DEN.

    Args:
        network: The student or its trunk, as ``prepare()`` makes them.
    """

    def __init__(self, network: PreparedStudent | PreparedRDAN) -> None:
        self.network = network
        self._graphs: OrderedDict[Kind, _Graph | None] = OrderedDict()
        self._without: set[Kind] = set()
        self._lock = threading.Lock()
        self._last_use: torch.cuda.Event | None = None

    def __call__(self, *inputs: Tensor, progress: Callable[[float], None] | None = None) -> Tensor:
        """Return SR, not clamped, of LR, or of LR and its degradation; errors are those of the network.

        Args:
            *inputs: LR, or LR and its degradation.
            progress: As for the network; the replay of a graph tells nothing.
        """
        self.network.check(*inputs)
        if pays_a_graph(inputs[0].shape, inputs[0].device):
            with self._lock:
                graph = self._graph(inputs)
                if graph is not None:
                    return self._replay(graph, inputs)
        return self.network(*inputs, progress=progress)

    def free(self) -> None:
        """Drop the graphs, and the memory they hold."""
        with self._lock:
            self._graphs.clear()

    def __reduce__(self) -> tuple[type[GraphRunner], tuple[PreparedStudent | PreparedRDAN]]:
        """Copy and pickle the network alone: neither locks nor graphs can be."""
        return type(self), (self.network,)

    def _graph(self, inputs: tuple[Tensor, ...]) -> _Graph | None:
        """Return the graph of calls like this one; None the first time, or if there can be none."""
        kind = _kind(inputs)
        if kind in self._without:
            return None
        if kind not in self._graphs:
            self._graphs[kind] = None
        elif self._graphs[kind] is None:
            try:
                self._graphs[kind] = _capture(self.network, inputs)
            except RuntimeError:  # e.g. out of memory: plain calls still work
                self._without.add(kind)
                return None
        self._graphs.move_to_end(kind)
        while len(self._graphs) > GRAPHS:
            self._graphs.popitem(last=False)
        return self._graphs[kind]

    @torch.no_grad()
    def _replay(self, graph: _Graph, inputs: tuple[Tensor, ...]) -> Tensor:
        with torch.cuda.device(graph.sr.device):
            if self._last_use is not None:  # on another stream, which may still read the result
                self._last_use.wait()
            for captured, tensor in zip(graph.inputs, inputs, strict=True):
                captured.copy_(tensor)
                captured.record_stream(torch.cuda.current_stream())  # another thread may drop the graph meanwhile
            graph.graph.replay()
            sr = graph.sr.clone()
            self._last_use = torch.cuda.Event()
            self._last_use.record()
        return sr


def pays_a_graph(shape: Sequence[int], device: torch.device) -> bool:
    """Return True if calls on LR (B, C, H, W) on a device are worth a CUDA graph."""
    pixels = shape[0] * shape[2] * shape[3]
    return device.type == "cuda" and 0 < pixels <= GRAPH_PIXELS and not torch.cuda.is_current_stream_capturing()


def _kind(inputs: tuple[Tensor, ...]) -> Kind:
    """Return what the kernels of a call depend on: sizes, and if torch lets products of float32 be TF32's."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    precision = convolutions.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    return (*(tuple(tensor.shape) for tensor in inputs), *precision)


def _capture(network: PreparedStudent | PreparedRDAN, inputs: tuple[Tensor, ...]) -> _Graph:
    # Later calls read these tensors, so they must not be inference tensors, even if the caller is in inference mode.
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(inputs[0].device):
        inputs = tuple(tensor.clone() for tensor in inputs)
        stream = torch.cuda.Stream()
        with fastest_convolutions():
            with beside(stream):
                for _ in range(2):  # sets up what is set up on first use, and lets cuDNN choose its algorithms
                    network(*inputs)
            graph, sr = capture(lambda: network(*inputs), stream)
    return _Graph(graph, inputs, sr)
