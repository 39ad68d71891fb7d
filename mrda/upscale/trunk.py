"""Running the trunk for inference: in half precision, and on a GPU by graphs of what comes again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from mrda.core.cuda_graphs import beside, capture, fastest_convolutions
from mrda.networks.kept import Kept
from mrda.networks.layers import without_autocast
from mrda.networks.rdan import RDAN

GRAPHS = 4
"""CUDA graphs that are kept at a time, those of the sizes that came last."""
GRAPH_PIXELS = 2**17
"""LR pixels beyond which launching the kernels takes no time that counts, and a graph only memory."""

Size = tuple[int, ...]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    lr: Tensor
    degradation: Tensor
    sr: Tensor


class TrunkRunner:
    """Calls an RDAN without recording gradients, from any number of threads.

    On a GPU the whole of its kernels is captured as a CUDA graph once a size of LR comes a second time, and replayed
    from then on: one launch in the place of some five hundred. Changed weights are noticed as by
    :class:`~mrda.networks.kept.Kept`; hooks, backends and options of the upscaler that change after a first call are
    not, in half precision and in graphs.

    Args:
        rdan: The trunk; where it lies it is run.
        dtype: What its features are computed in, see :meth:`~mrda.networks.rdan.RDAN.with_features_in`; float32 is the
            trunk as it is, and so is any, where it is not in float32 itself.
    """

    def __init__(self, rdan: RDAN, dtype: torch.dtype) -> None:
        self.rdan = rdan
        self.dtype = dtype
        self._copy: Kept[RDAN] = Kept()
        self._graphs: Kept[OrderedDict[Size, _Graph | None]] = Kept()
        self._without: set[Size] = set()
        self._lock = threading.Lock()
        self._last_use: torch.cuda.Event | None = None

    @torch.no_grad()
    def __call__(self, lr: Tensor, degradation: Tensor) -> Tensor:
        """Return SR in the dtype of LR, not clamped; arguments and errors are those of `RDAN.forward`."""
        self.rdan.check(lr, degradation)
        weights: list[Tensor] = list(self.rdan.parameters())
        with without_autocast(lr.device):  # `dtype` says what to compute in
            with self._lock:
                rdan = self.rdan
                if self.dtype != torch.float32 == degradation.dtype:
                    rdan = self._copy(weights, lambda: self.rdan.with_features_in(self.dtype))
                if _pays_a_graph(lr):
                    graph = self._graph(self._graphs(weights, OrderedDict), rdan, lr, degradation)
                    if graph is not None:
                        return self._replay(graph, lr, degradation)
            return rdan(lr, degradation)

    def free(self) -> None:
        """Let go of the graphs, and of the memory they hold."""
        with self._lock:
            self._graphs = Kept()

    def __reduce__(self) -> tuple[type[TrunkRunner], tuple[RDAN, torch.dtype]]:
        """Copy and pickle what it was made of: neither locks nor graphs can be."""
        return type(self), (self.rdan, self.dtype)

    def _graph(
        self, graphs: OrderedDict[Size, _Graph | None], rdan: RDAN, lr: Tensor, degradation: Tensor
    ) -> _Graph | None:
        """The graph of this size; None the first time."""
        size = tuple(lr.shape)
        if size in self._without:
            return None
        if size not in graphs:
            graphs[size] = None
        elif graphs[size] is None:
            try:
                graphs[size] = _capture(rdan, lr, degradation)
            except RuntimeError:  # out of memory, or a hook that a graph can't hold: plain calls do
                self._without.add(size)
                return None
        graphs.move_to_end(size)
        while len(graphs) > GRAPHS:
            graphs.popitem(last=False)
        return graphs[size]

    def _replay(self, graph: _Graph, lr: Tensor, degradation: Tensor) -> Tensor:
        with torch.cuda.device(lr.device):
            if self._last_use is not None:  # by another stream, whose result may still be on its way out
                self._last_use.wait()
            graph.lr.copy_(lr)
            graph.degradation.copy_(degradation)
            graph.graph.replay()
            sr = graph.sr.clone()
            self._last_use = torch.cuda.Event()
            self._last_use.record()
        return sr


def _pays_a_graph(lr: Tensor) -> bool:
    pixels = lr.shape[0] * lr.shape[2] * lr.shape[3]
    return lr.device.type == "cuda" and 0 < pixels <= GRAPH_PIXELS and not torch.cuda.is_current_stream_capturing()


def _capture(rdan: RDAN, lr: Tensor, degradation: Tensor) -> _Graph:
    # What serves later calls must not be of the caller's inference mode.
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(lr.device):
        lr, degradation = lr.clone(), degradation.clone()
        stream = torch.cuda.Stream()
        with fastest_convolutions():
            with beside(stream):
                for _ in range(2):  # what is set up on first use, and cuDNN's choice, is not to be captured
                    rdan(lr, degradation)
            graph, sr = capture(lambda: rdan(lr, degradation), stream)
    return _Graph(graph, lr, degradation, sr)
