"""What surrounds a call: autocast regions and torch.func transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Asked once, for torch.compile of torch 2.11 cannot see through the question; a PrivateUse1 device is not among them.
_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "xla", "mtia", "maia", "ipu")
_AUTOCASTING = frozenset(filter(torch.amp.is_autocast_available, _DEVICES))


def autocast(*tensors: Tensor | None) -> Any:
    """Cast the tensors as autocast does for ``conv2d``: floating point ones, float64 excepted; None stays None."""
    device_type = next(t.device.type for t in tensors if t is not None)
    if device_type not in _AUTOCASTING or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    )


def functorch_is_active() -> bool:
    """Whether the call is inside torch.func.grad, vmap and their like, which registered autograd does not serve."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None
