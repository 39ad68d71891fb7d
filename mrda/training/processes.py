# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: their share of the micro-batches, their communication, and signals to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and the signal that schedulers and launchers send before they kill."""


class Processes:
    """The processes that `accelerate launch` or `torchrun` started, or this one alone.

    Gradients are summed here, in one message, and not by DistributedDataParallel: the loss is often not computed by
    the forward pass of one module (an adapted MLN, an IDR on its own), and a micro-batch must give the same result in
    any process.

    Args:
        accelerator: knows processes and devices.
        micro_batches: micro-batches of an optimizer step, over all processes; None is one for each.

    Raises:
        ValueError: the processes can't have equal numbers of micro-batches.
    """

    def __init__(self, accelerator: Accelerator, micro_batches: int | None) -> None:
        self.accelerator = accelerator
        self.count = accelerator.num_processes
        self.is_main = accelerator.is_main_process
        self.device = accelerator.device
        self.micro_batches = micro_batches or self.count
        if self.micro_batches % self.count:
            raise ValueError(
                f"train.micro_batches is {self.micro_batches}, but must be a multiple of the {self.count} processes"
            )

    def local_micro_batches(self) -> range:
        """Numbers of the micro-batches that this process computes in every step."""
        share = self.micro_batches // self.count
        first = share * self.accelerator.process_index
        return range(first, first + share)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self.accelerator.wait_for_everyone()

    def leave(self) -> None:
        """Leave the group of processes, after all have called this: gloo may abort a process that ends as a member."""
        self.wait()
        self.accelerator.state.destroy_process_group()

    def any(self, flag: bool) -> bool:
        """True if the flag is set in any process; every process must call this."""
        (raised,) = self.sum([torch.tensor(float(flag), device=self.device)])
        return bool(raised > 0)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sum tensors of one dtype over all processes, which must have the same number and shapes of them."""
        if self.count == 1 or not tensors:
            return list(tensors)
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        total = self.accelerator.reduce(flat, reduction="sum")
        parts = total.split([tensor.numel() for tensor in tensors])
        return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Average tensors over all processes; see `sum`."""
        return [total / self.count for total in self.sum(tensors)]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> list[Tensor]:
        """Replace gradients by their sums over all processes; returns those that are not None."""
        own = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient, total in zip(own, self.sum(own), strict=True):
            if total is not gradient:
                gradient.copy_(total)  # keeps the memory layout, which a fused optimizer relies on
        return own

    def broadcast(self, item: T) -> T:
        """Return the item of the main process, in every process."""
        items = [item]
        if self.count > 1:
            broadcast_object_list(items)
        return items[0]

    def gather(self, items: list[T]) -> list[T]:
        """Return the lists of all processes, joined; they may differ in length."""
        if self.count == 1:
            return items
        gathered: list[T] = gather_object(items)
        return gathered


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Catch the first SIGINT and the first SIGTERM, so that a step can end; a second one of a kind acts as usual.

    Launchers pass a Ctrl-C on as SIGTERM, so that a process gets both; neither may cut the step short.

    Yields:
        A function that returns True once a signal has come. Outside of the main thread, where signals never arrive,
        nothing is caught.
    """
    caught = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: caught
        return
    previous = {int(number): signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = True
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, note)
    try:
        yield lambda: caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
