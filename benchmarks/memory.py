"""How much memory a call takes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def saved_bytes(operator: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> int:
    """The bytes that a call keeps alive for its backward, its inputs among them."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no other can come to lie at its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        operator(*tensors)
    return sum(storage.nbytes() for storage in storages.values())


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most bytes that a call holds at a time, on top of what exists before it; its results count.

    On a GPU as torch's caching allocator reports it. On a CPU torch's profiler lists what its allocator hands out
    and takes back; their running sum has a highest point. What a library takes from the system behind torch's back,
    such as oneDNN's scratch memory, is in neither. The process's resident memory would not do: it never falls while
    the C library keeps freed memory, so that no call after the largest one could be seen in it.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = run()
    del result
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
