"""What is worked out from weights and kept as long as they stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mrda.networks.layers import without_autocast
from mrda_kernels.transforms import functorch_is_active

Value = TypeVar("Value")

_READ: ContextVar[list[object] | None] = ContextVar("what CUDA graphs have read of what is kept", default=None)


@contextmanager
def captured_as_kept() -> Iterator[list[object]]:
    """Let a CUDA graph that is captured in here read what is kept already, instead of computing it in every replay.

    Only for weights that stay as they are as long as the graph is replayed. Gives the list of what was read, which is
    to live as long.
    """
    read: list[object] = []
    token = _READ.set(read)
    try:
        yield read
    finally:
        _READ.reset(token)


def is_traced(weights: Iterable[Tensor]) -> bool:
    """Whether autograd, torch.compile or torch.func has to see what is done to the weights."""
    is_trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
    return is_trained or torch.compiler.is_compiling() or functorch_is_active()


class Kept(Generic[Value]):
    """A value that is computed from weights once, until one of them is seen to change, move or be converted.

    A change in place through ``.data`` is not seen. Of weights that were loaded in inference mode no change would be:
    of those, and while a CUDA graph is being captured (but see `captured_as_kept`), the value is computed in every
    call. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept: tuple[object, Value] | None = None
        self._seen: list[Tensor] = []  # holds their memory, lest other weights come to lie there unnoticed

    def __call__(self, weights: list[Tensor], compute: Callable[[], Value]) -> Value:
        """Return what ``compute`` makes of ``weights``; it records no gradients where its result is kept."""
        if is_traced(weights) or any(weight.is_inference() for weight in weights):
            return compute()
        now = [(weight.data_ptr(), weight._version, weight.dtype, weight.device) for weight in weights]
        known = self._kept is not None and self._kept[0] == now
        if _is_capturing(weights[0]):
            read = _READ.get()
            if self._kept is None or not known or read is None:
                return compute()
            read.append(self._kept)
        elif self._kept is None or not known:
            with torch.inference_mode(False), torch.no_grad(), without_autocast(weights[0].device):
                value = compute()
            if weights[0].is_cuda:  # other streams are to find it whole
                torch.cuda.current_stream(weights[0].device).synchronize()
            self._seen = [weight.detach() for weight in weights]
            self._kept = now, value
        return self._kept[1]

    def __reduce__(self) -> tuple[type[Kept[Value]], tuple[()]]:
        """Copy and pickle as a fresh one: the copy of a network has weights of its own."""
        return type(self), ()


def _is_capturing(weight: Tensor) -> bool:
    return weight.is_cuda and torch.cuda.is_current_stream_capturing()
