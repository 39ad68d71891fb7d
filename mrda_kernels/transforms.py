"""torch.func transforms, which registered autograd does not serve."""

from __future__ import annotations

import torch


def functorch_is_active() -> bool:
    """Return True inside torch.func.grad, vmap and their like; False while torch.compile traces."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None
