# SPDX-License-Identifier: Apache-2.0
"""Running the trunk for inference: on a GPU, CUDA graphs replay the sizes of images that come again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from mrda.core.cuda_graphs import beside, capture, fastest_convolutions
from mrda.networks.prepared import PreparedRDAN

GRAPHS = 4
"""CUDA graphs that are kept at a time: those of the sizes that came last."""
GRAPH_PIXELS = 2**17
"""LR pixels above which a graph saves no time, because launches are short beside the kernels, and only takes memory."""

Size = tuple[int, ...]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    lr: Tensor
    degradation: Tensor
    sr: Tensor


class TrunkRunner:
    """Calls a prepared trunk, from any number of threads.

    On a GPU all of its kernels are captured as a CUDA graph once a size of LR comes a second time, and replayed from
    then on: one launch instead of some two hundred.

    Args:
        trunk: The trunk, see :meth:`mrda.networks.rdan.RDAN.prepare`.
    """

    def __init__(self, trunk: PreparedRDAN) -> None:
        self.trunk = trunk
        self._graphs: OrderedDict[Size, _Graph | None] = OrderedDict()
        self._without: set[Size] = set()
        self._lock = threading.Lock()
        self._last_use: torch.cuda.Event | None = None

    def __call__(self, lr: Tensor, degradation: Tensor) -> Tensor:
        """Return SR, not clamped; arguments and errors are those of `RDAN.forward`."""
        self.trunk.check(lr, degradation)
        if _pays_a_graph(lr):
            with self._lock:
                graph = self._graph(lr, degradation)
                if graph is not None:
                    return self._replay(graph, lr, degradation)
        return self.trunk(lr, degradation)

    def free(self) -> None:
        """Drop the graphs, and the memory they hold."""
        with self._lock:
            self._graphs.clear()

    def __reduce__(self) -> tuple[type[TrunkRunner], tuple[PreparedRDAN]]:
        """Copy and pickle the trunk alone: neither locks nor graphs can be."""
        return type(self), (self.trunk,)

    def _graph(self, lr: Tensor, degradation: Tensor) -> _Graph | None:
        """Return the graph of this size; None the first time, or if there can be none."""
        size = tuple(lr.shape)
        if size in self._without:
            return None
        if size not in self._graphs:
            self._graphs[size] = None
        elif self._graphs[size] is None:
            try:
                self._graphs[size] = _capture(self.trunk, lr, degradation)
            except RuntimeError:  # e.g. out of memory: plain calls still work
                self._without.add(size)
                return None
        self._graphs.move_to_end(size)
        while len(self._graphs) > GRAPHS:
            self._graphs.popitem(last=False)
        return self._graphs[size]

    @torch.no_grad()
    def _replay(self, graph: _Graph, lr: Tensor, degradation: Tensor) -> Tensor:
        with torch.cuda.device(lr.device):
            if self._last_use is not None:  # on another stream, which may still read the result
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
    return lr.is_cuda and 0 < pixels <= GRAPH_PIXELS and not torch.cuda.is_current_stream_capturing()


def _capture(trunk: PreparedRDAN, lr: Tensor, degradation: Tensor) -> _Graph:
    # Later calls read these tensors, so they must not be inference tensors, even if the caller is in inference mode.
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(lr.device):
        lr, degradation = lr.clone(), degradation.clone()
        stream = torch.cuda.Stream()
        with fastest_convolutions():
            with beside(stream):
                for _ in range(2):  # sets up what is set up on first use, and lets cuDNN choose its algorithms
                    trunk(lr, degradation)
            graph, sr = capture(lambda: trunk(lr, degradation), stream)
    return _Graph(graph, lr, degradation, sr)
