"""CUDA graphs: a fixed sequence of kernels, launched as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")

_ALONE = threading.RLock()  # torch wants one capture at a time, and cuDNN's flag is one for all threads


def capture(compute: Callable[[], Result], stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture what ``compute`` launches on the current device, none of which runs.

    What is set up on first use must have been: call ``compute`` in :func:`beside` the current stream before.

    Returns:
        The graph, and what ``compute`` returned: tensors that every replay fills anew.

    Raises:
        RuntimeError: out of memory, or what ``compute`` does can't be part of a graph.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on to allocate: only what this one does has to fit into a graph.
    with (
        fastest_convolutions(),
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        result = compute()
    return graph, result


@contextmanager
def beside(stream: torch.cuda.Stream) -> Iterator[None]:
    """Work on ``stream`` for a while, between what the current one did before and does after."""
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Let cuDNN try its algorithms, which pays where one is to be replayed; one thread at a time is in here."""
    with _ALONE:
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before
