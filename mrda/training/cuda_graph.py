# SPDX-License-Identifier: Apache-2.0
"""The forward and backward pass of a stage as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from mrda.core.cuda_graphs import beside, capture, fastest_convolutions
from mrda.degradations import Degraded
from mrda.training.losses import Terms
from mrda.training.stages import Stage

Backward = Callable[[int, Degraded], Terms]
"""Computes the loss of a step on a batch and adds its gradients to the parameters'; returns the loss's terms."""

PLAIN_CALLS = 3
"""Plain calls before the capture, in which everything is set up that is set up on first use."""


class GraphedBackward:
    """A `Backward` as a CUDA graph, for a GPU that runs the kernels of a step faster than they are launched.

    Steps with the same `Stage.graph_key` and sizes launch the same kernels. The first few are computed by plain calls;
    then one is captured, on copies of its inputs, and replayed until the key or the sizes change.

    Args:
        backward: the function to capture.
        stage: the stage whose loss it computes.
        device: the GPU.
    """

    def __init__(self, backward: Backward, stage: Stage, device: torch.device) -> None:
        self._backward = backward
        self._stage = stage
        self._parameters = stage.trainable()
        if stage.discriminator is not None:
            self._parameters += stage.discriminator.parameters()
        self._stream = torch.cuda.Stream(device)
        self._key: Hashable = None
        self._plain_calls = 0
        self._graph: _Graph | None = None

    def __call__(self, step: int, batch: Degraded) -> Terms:
        """See `Backward`; the next call overwrites the terms."""
        key = self._stage.graph_key(step), *(None if tensor is None else tensor.shape for tensor in batch)
        if key != self._key:
            self._key, self._plain_calls, self._graph = key, 0, None  # frees the memory of the old graph
        if self._graph is None:
            if self._plain_calls < PLAIN_CALLS:
                self._plain_calls += 1
                with fastest_convolutions(), beside(self._stream):
                    return self._backward(step, batch)
            self._graph = self._capture(step, batch)
        return self._graph.replay(batch)

    def _capture(self, step: int, batch: Degraded) -> _Graph:
        batch = Degraded._make(None if tensor is None else tensor.clone() for tensor in batch)
        before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        try:
            graph, terms = capture(lambda: self._backward(step, batch), self._stream)
            return _Graph(graph, batch, terms, self._parameters)
        except RuntimeError as error:
            raise RuntimeError(
                f"stage '{self._stage.name}' could not be captured as a CUDA graph ({error}): "
                "try train.cuda_graphs=false"
            ) from error
        finally:
            for parameter, gradient in zip(self._parameters, before, strict=True):
                parameter.grad = gradient


class _Graph:
    """A captured `Backward` and its input and output tensors.

    Args:
        graph: the graph.
        batch: the batch that it reads.
        terms: the loss's terms that it writes.
        parameters: hold the gradients that it writes.
    """

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        batch: Degraded,
        terms: Terms,
        parameters: Sequence[torch.nn.Parameter],
    ) -> None:
        self._graph = graph
        self._batch = batch
        self._terms = terms
        with_gradient = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        self._parameters = [parameter for parameter, _ in with_gradient]
        self._gradients = [gradient for _, gradient in with_gradient]
        # The parameters get tensors of their own: the next loss of the same step overwrites the graph's.
        self._sums = [torch.empty_like(gradient) for gradient in self._gradients]

    def replay(self, batch: Degraded) -> Terms:
        """Compute the loss on ``batch``."""
        for own, given in zip(self._batch, batch, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._graph.replay()
        with torch.no_grad():
            sums = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            if sums:
                torch._foreach_add_(sums, self._gradients)
            else:
                torch._foreach_copy_(self._sums, self._gradients)
                for parameter, total in zip(self._parameters, self._sums, strict=True):
                    parameter.grad = total
        return self._terms
