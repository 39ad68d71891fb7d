"""The gradients of a stage's loss: computed by plain calls, or on a GPU by CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager

import torch

from mrda.config import EngineConfig
from mrda.core.cuda_graphs import beside, capture, fastest_convolutions
from mrda.degradations import Degraded
from mrda.networks.kept import captured_as_kept
from mrda.training.stage import Stage
from mrda.training.visual import Terms

Compute = Callable[[int, Degraded], Terms]

AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PLAIN_CALLS = 3
"""Losses of a kind that come before the graph is captured: what is set up on first use is theirs to set up."""


class Backward:
    """Computes a loss and adds its gradients to those of the parameters.

    Args:
        stage: whose loss.
        precision: `train.mixed_precision`.
        scaler: scales the loss where the precision needs it.
        share: further factor of the loss.
    """

    def __init__(self, stage: Stage, precision: str, scaler: torch.amp.GradScaler, share: float) -> None:
        self.stage = stage
        self.precision = precision
        self.scaler = scaler
        self.share = share

    def __call__(self, step: int, pair: Degraded) -> Terms:
        """Of step number ``step`` on ``pair``; returns the loss's terms, detached."""
        with self._autocast(pair.lr.device):
            terms = self.stage.loss(step, pair)
        # Not by Accelerator, which divides by the accumulation steps that its environment names.
        self.scaler.scale(self.share * terms["loss"]).backward()
        return {name: value.detach() for name, value in terms.items()}

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        # Not Accelerator's own mixed precision, which is fixed for the life of the process.
        return torch.autocast(device.type, AUTOCAST[self.precision], enabled=self.precision != "no")


class GraphedBackward:
    """A :class:`Backward` as a CUDA graph, for a GPU that runs the kernels of a step faster than they are launched.

    Losses of one phase and size are the same kernels. The first few are computed by plain calls; then they are captured
    once, on copies of what they take, and replayed until another phase or size comes.

    Args:
        backward: what to capture.
        stage: whose loss it is.
        device: the GPU.
    """

    def __init__(self, backward: Compute, stage: Stage, device: torch.device) -> None:
        self._backward = backward
        self._stage = stage
        self._parameters = stage.trainable()
        if stage.discriminator is not None:
            self._parameters += stage.discriminator.parameters()
        self._stream = torch.cuda.Stream(device)
        self._kind: Hashable = None
        self._plain_calls = 0
        self._graph: _Graph | None = None

    def __call__(self, step: int, pair: Degraded) -> Terms:
        """See :class:`Backward`; the terms are those of the last call only until the next one."""
        kind = self._stage.phase(step), *(None if tensor is None else tensor.shape for tensor in pair)
        if kind != self._kind:
            self._kind, self._plain_calls, self._graph = kind, 0, None  # a graph holds the memory of a step
        if self._graph is None:
            if self._plain_calls < PLAIN_CALLS:
                self._plain_calls += 1
                with fastest_convolutions(), beside(self._stream):
                    return self._backward(step, pair)
            self._graph = self._capture(step, pair)
        return self._graph.replay(pair)

    def _capture(self, step: int, pair: Degraded) -> _Graph:
        pair = Degraded._make(None if tensor is None else tensor.clone() for tensor in pair)
        before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        try:
            with captured_as_kept() as read:
                graph, terms = capture(lambda: self._backward(step, pair), self._stream)
            return _Graph(graph, pair, terms, self._parameters, read)
        except RuntimeError as error:
            raise RuntimeError(
                f"stage '{self._stage.name}' could not be captured as a CUDA graph ({error}): "
                "try train.cuda_graphs=false"
            ) from error
        finally:
            for parameter, gradient in zip(self._parameters, before, strict=True):
                parameter.grad = gradient


class _Graph:
    """A captured :class:`Backward` and the tensors that it reads and fills.

    Args:
        graph: the graph.
        pair: what it reads.
        terms: the loss's terms, which it fills.
        parameters: hold the gradients that it fills.
        read: what else has to stay in memory.
    """

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        pair: Degraded,
        terms: Terms,
        parameters: Sequence[torch.nn.Parameter],
        read: object,
    ) -> None:
        self._graph = graph
        self._read = read
        self._pair = pair
        self._terms = terms
        moved = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        self._parameters = [parameter for parameter, _ in moved]
        self._gradients = [gradient for _, gradient in moved]
        # Those that parameters are given: the graph's own are filled anew by the next loss of the same step.
        self._sums = [torch.empty_like(gradient) for gradient in self._gradients]

    def replay(self, pair: Degraded) -> Terms:
        """Compute the loss on ``pair``."""
        for own, given in zip(self._pair, pair, strict=True):
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


def build_backward(
    stage: Stage, engine: EngineConfig, scaler: torch.amp.GradScaler, micro_batches: int, device: torch.device
) -> Compute:
    """What computes the losses of a stage's steps, of which each is averaged over ``micro_batches``."""
    plain = Backward(stage, engine.mixed_precision, scaler, stage.loss_share / micro_batches)
    graphs = device.type == "cuda" and engine.cuda_graphs and not engine.compile and stage.repeats
    return GraphedBackward(plain, stage, device) if graphs else plain
