"""What may take part in a call besides a backend: torch.func transforms, tracers, modes, special tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_TENSOR_TYPES = frozenset({Tensor, torch.nn.Parameter})


def _keys(*names: str) -> int:
    """Return the set of torch's dispatch keys of those names, as a number."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return keys.raw_repr()


# The keys that a thread in no mode adds to a call, and those of an ordinary tensor; with autograd or in inference mode.
_PLAIN_MODES = frozenset({_keys("BackendSelect", "ADInplaceOrView"), _keys("BackendSelect")})
_PLAIN_TENSORS = frozenset(
    _keys(device, f"Autocast{device}", *autograd)
    for device in ("CPU", "CUDA")
    for autograd in ((f"Autograd{device}", "ADInplaceOrView"), ())
)


def functorch_is_active() -> bool:
    """Return True inside torch.func.grad, vmap and their like, which registered autograd does not serve."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_plain(tensors: Iterable[Tensor | None]) -> bool:
    """Return True if an eager call on ``tensors`` need not go through torch's dispatcher: nobody listens there.

    That is so outside of torch.func, tracing, profiling, and modes that see functions or operators; for tensors of no
    subclass, with memory of their own, and without a lazy negation.
    """
    included = torch._C._dispatch_tls_local_include_set().raw_repr()
    if included not in _PLAIN_MODES or torch._C._len_torch_function_stack() or torch.autograd._profiler_enabled():
        return False
    keys_of = torch._C._dispatch_keys
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in _TENSOR_TYPES or keys_of(tensor).raw_repr() not in _PLAIN_TENSORS
        ):
            return False
    return True
