"""The processes of a run: which micro-batches each works on, and what they tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

T = TypeVar("T")


class Processes:
    """The processes that `accelerate launch` or `torchrun` started, or this one alone.

    Gradients are summed here, in one message, and not by DistributedDataParallel: what is differentiated is often not
    the forward pass of one module (an adapted MLN, an IDR on its own), and a micro-batch must do the same work
    whichever process it falls to.

    Args:
        accelerator: finds out about processes and devices.
        micro_batches: how many an optimizer step has, over all processes; None is one for each.

    Raises:
        ValueError: the micro-batches can't be shared out evenly.
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

    def mine(self) -> range:
        """Numbers of this process's micro-batches in every step."""
        share = self.micro_batches // self.count
        first = share * self.accelerator.process_index
        return range(first, first + share)

    def wait(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process; every process must ask."""
        (raised,) = self.sum([torch.tensor(float(flag), device=self.device)])
        return bool(raised > 0)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over all processes of tensors of one dtype, alike in number and shapes everywhere."""
        if self.count == 1 or not tensors:
            return list(tensors)
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        total = self.accelerator.reduce(flat, reduction="sum")
        parts = total.split([tensor.numel() for tensor in tensors])
        return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over all processes."""
        return [total / self.count for total in self.sum(tensors)]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> list[Tensor]:
        """Replace gradients by their sums over all processes; returns those that there are."""
        own = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        totals = self.sum([gradient for _, gradient in own])
        for (_, gradient), total in zip(own, totals, strict=True):
            if total is not gradient:
                gradient.copy_(total)  # in its own layout, which a fused optimizer relies on
        return [gradient for _, gradient in own]

    def broadcast(self, item: T) -> T:
        """The main process's item, in every process."""
        items = [item]
        if self.count > 1:
            broadcast_object_list(items)
        return items[0]

    def gather(self, items: list[T]) -> list[T]:
        """Lists of all processes, one after the other; they may differ in length."""
        if self.count == 1:
            return items
        gathered: list[T] = gather_object(items)
        return gathered
