"""The one rule for the memory format of results, shared by real and fake kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def result_memory_format(input: Tensor) -> torch.memory_format:
    """channels_last where ``input`` is channels_last-contiguous and not NCHW-contiguous, else NCHW."""
    if input.is_contiguous() or not input.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def empty_result(input: Tensor) -> Tensor:
    """An uninitialised tensor for a result, or for the gradient of ``input``."""
    return torch.empty_like(input, memory_format=result_memory_format(input))
