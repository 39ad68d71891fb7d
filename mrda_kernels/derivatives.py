# SPDX-License-Identifier: Apache-2.0
"""Registration of the derivatives of every kind that an operator has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrda_kernels.call import has_tangent

_library = torch.library.Library("mrda_kernels", "FRAGMENT")  # keeps what is registered with it while it lives


def below_autograd(keys: torch._C.DispatchKeySet, operator: Any, inputs: tuple[Any, ...]) -> Any:
    """Call an operator's kernel that comes after autograd's."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *inputs)


def register(name: str, composed: Callable[..., Any], recorded: type[torch.autograd.Function] | None = None) -> None:
    """Register all derivatives of the operator of that name.

    In forward-mode AD and inside of torch.func's transforms, which an eager call of the public functions never brings
    here but torch.compile, torch.export and torch.ops do, ``composed`` computes the result by torch's own operators,
    which have the derivatives. Reverse-mode AD is left to ``recorded``, whose arguments are the dispatch keys, the
    operator and its inputs; without it, to ``composed`` too.
    """
    operator = getattr(torch.ops.mrda_kernels, name).default

    def autograd(keys: torch._C.DispatchKeySet, *inputs: Any) -> Any:
        tensors = [t for t in inputs if isinstance(t, Tensor)]
        if torch._C._functorch.peek_interpreter_stack() is not None or has_tangent(tensors):
            return composed(*inputs)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return composed(*inputs) if recorded is None else recorded.apply(keys, operator, *inputs)
        return below_autograd(keys, operator, inputs)

    _library.impl(name, autograd, "Autograd", with_keyset=True)
    _library.impl(name, composed, "FuncTorchBatchedDecomposition")
