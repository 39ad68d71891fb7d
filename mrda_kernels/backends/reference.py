# SPDX-License-Identifier: Apache-2.0
"""The eager reference as a backend: serves everything, everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from mrda_kernels import reference
from mrda_kernels.call import RdaCall


def why_not(device: torch.device | str) -> str | None:
    """Return None: the reference serves every device."""
    return None


def details() -> str:
    """Describe the backend."""
    return "plain operations of PyTorch, slow"


def forward(call: RdaCall) -> Tensor:
    """Return the result, in the operator's memory format."""
    return call.empty_result().copy_(reference.forward(call))


def backward(grad_output: Tensor, call: RdaCall) -> tuple[Tensor, ...]:
    """Return the gradients of input and weight, and with a mask of its weight and bias."""
    grad_input, *others = reference.backward(grad_output, call)
    return call.empty_result().copy_(grad_input), *others
