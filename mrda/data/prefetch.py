"""Patches made ahead of time, beside the training step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")


class Prefetcher(Generic[Key]):
    """Iterates over ``(key, produce(key))``, in the order of the keys, up to ``depth`` of them ahead in one thread.

    So the results are those of a plain loop where ``produce`` depends on its key alone. What it raises comes out of
    the iterator, at its key. Leaving a loop over a Prefetcher (or a ``with`` block) in any way closes it.

    Args:
        produce: makes the tensor of a key; called in another thread.
        keys: finite or endless; asked for in the thread that iterates.
        depth: most tensors made or in the making that the loop has not got yet.
        pin_memory: put the tensors into page-locked memory, from which they can be copied to the current CUDA device
            while it works.

    Raises:
        ValueError: ``depth`` is below 1.
    """

    waited: float
    """Seconds that the iterating thread has waited for tensors, in total."""

    def __init__(
        self, produce: Callable[[Key], Tensor], keys: Iterable[Key], depth: int = 4, *, pin_memory: bool = False
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}, but must be at least 1")
        self.waited = 0.0
        self._produce = produce
        self._keys = iter(keys)
        self._depth = depth
        self._pin_memory = pin_memory
        self._pending: deque[tuple[Key, Future[Tensor]]] = deque()
        # A new thread is on device 0, where pinning would make a context of its own.
        setup = partial(torch.cuda.set_device, torch.cuda.current_device()) if pin_memory else None
        self._executor = ThreadPoolExecutor(1, "prefetch", initializer=setup)

    def __iter__(self) -> Iterator[tuple[Key, Tensor]]:
        """Go through the keys, once."""
        try:
            self._fill()
            while self._pending:
                key, future = self._pending.popleft()
                began = time.perf_counter()
                try:
                    tensor = future.result()
                finally:
                    self.waited += time.perf_counter() - began
                self._fill()
                yield key, tensor
        finally:
            self.close()

    def close(self) -> None:
        """Drop what has not been handed out and let the thread end; does not wait for it."""
        self._pending.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self) -> None:
        """Order tensors until ``depth`` are on their way."""
        while len(self._pending) < self._depth:
            try:
                key = next(self._keys)
            except StopIteration:
                return
            self._pending.append((key, self._executor.submit(self._make, key)))

    def _make(self, key: Key) -> Tensor:
        tensor = self._produce(key)
        return tensor.pin_memory() if self._pin_memory else tensor
