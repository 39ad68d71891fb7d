# SPDX-License-Identifier: Apache-2.0
"""Produces patches ahead of time, while the training step runs."""

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
    """Iterates over ``(key, produce(key))`` in the order of the keys, computing up to ``depth`` ahead in one thread.

    The results are those of a plain loop if ``produce`` depends on its key alone. An exception in ``produce`` is raised
    by the iterator at that key. Leaving a loop over a Prefetcher (or a ``with`` block) in any way closes it.

    Args:
        produce: computes the tensor of a key; called in another thread.
        keys: finite or endless; iterated in the calling thread.
        depth: largest number of tensors computed, or being computed, that the loop has not received yet.
        pin_memory: put the tensors into page-locked memory, so that they can be copied to the current CUDA device
            asynchronously.

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
        # A new thread uses device 0, where pinning would create a second context.
        setup = partial(torch.cuda.set_device, torch.cuda.current_device()) if pin_memory else None
        self._executor = ThreadPoolExecutor(1, "prefetch", initializer=setup)

    def __iter__(self) -> Iterator[tuple[Key, Tensor]]:
        """Iterate over the keys, once."""
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
        """Drop tensors that were not received and let the thread end, without waiting for it."""
        self._pending.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self) -> None:
        """Submit keys until ``depth`` tensors are pending."""
        while len(self._pending) < self._depth:
            try:
                key = next(self._keys)
            except StopIteration:
                return
            self._pending.append((key, self._executor.submit(self._make, key)))

    def _make(self, key: Key) -> Tensor:
        tensor = self._produce(key)
        return tensor.pin_memory() if self._pin_memory else tensor
