# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: a fixed sequence of kernels, launched as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")

_ALONE = threading.RLock()  # torch captures one graph at a time, and cuDNN's flag is shared by all threads


def capture(compute: Callable[[], Result], stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture the kernels that ``compute`` launches on the current device, without running them.

    Call ``compute`` once in :func:`beside` before, so that everything that is set up on first use exists.

    Returns:
        The graph, and the tensors that ``compute`` returned, which every replay overwrites.

    Raises:
        RuntimeError: out of memory, or an operation of ``compute`` cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    # thread_local: other threads may allocate memory meanwhile.
    with (
        fastest_convolutions(),
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        result = compute()
    return graph, result


@contextmanager
def beside(stream: torch.cuda.Stream) -> Iterator[None]:
    """Run a block on ``stream``, after the work queued on the current stream, which then waits for the block."""
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Let cuDNN benchmark its algorithms, which pays off for graphs that are replayed; one thread at a time."""
    with _ALONE:
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before
