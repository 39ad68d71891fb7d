# SPDX-License-Identifier: Apache-2.0
"""The choice of the backend that serves a call, and the reasons why each other one does not."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor

from mrda_kernels.call import RdaCall

BACKENDS = ("cuda", "triton", "cpu", "reference")
"""Every backend that a caller may name."""

EMULATED = "cuda-emulated"
"""The CUDA sources run on the CPU: a backend for this project's tests only, never chosen, not listed in messages."""

ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
"""For each device type, the backends that may be chosen, the preferred one first; for others, the reference."""

ENVIRONMENT_VARIABLE = "MRDA_KERNELS_BACKEND"


class Backend(Protocol):
    """The functions of a module under :mod:`mrda_kernels.backends`."""

    why_not: Callable[[torch.device | str], str | None]
    details: Callable[[], str]
    forward: Callable[[RdaCall], Tensor]
    backward: Callable[[Tensor, RdaCall], tuple[Tensor, ...]]


def check_name(name: str | None, source: str = "backend") -> str | None:
    """Return ``name`` if it is None or a backend's; otherwise raise ValueError, about ``source``."""
    if name is not None and name not in (*BACKENDS, EMULATED):
        unset = "" if source == ENVIRONMENT_VARIABLE else "None or "
        raise ValueError(f"{source} is {name!r}, but must be {unset}one of {', '.join(BACKENDS)}")
    return name


def load(name: str, source: str = "backend") -> Backend:
    """Import the backend of that name; ValueError for an unknown one, about ``source``."""
    check_name(name, source)
    return cast(Backend, importlib.import_module(f"mrda_kernels.backends.{name.replace('-', '_')}"))


@functools.cache
def why_not(name: str, device: torch.device) -> str | None:
    """Return why a backend can't serve tensors on ``device``, or None if it can; asked once per device."""
    return load(name).why_not(device)


def select(name: str | None, device: torch.device | str) -> Backend:
    """Return the backend for calls on tensors on ``device``.

    ``name`` is the caller's wish; without one, the environment variable MRDA_KERNELS_BACKEND decides; without that, the
    first backend of ``ORDER`` that can serve. A named backend that can't serve is a RuntimeError that says why.
    """
    source = "backend" if name else ENVIRONMENT_VARIABLE
    return _select(name or os.environ.get(ENVIRONMENT_VARIABLE) or None, source, torch.device(device))


@functools.cache
def _select(wish: str | None, source: str, device: torch.device) -> Backend:
    if wish is None:
        return load(_first(device))
    backend = load(wish, source)
    reason = why_not(wish, device)
    if reason is not None:
        raise RuntimeError(f"{source} is {wish!r}, which can't serve this call: {reason}")
    return backend


def _first(device: torch.device) -> str:
    """Return the first backend of the order that can serve; warn if it is the reference in place of a faster one."""
    names = ORDER.get(device.type, ("reference",))
    chosen = next(name for name in names if why_not(name, device) is None)
    if chosen == "reference" and names[0] != chosen:
        reason = why_not(names[0], device)
        warnings.warn(f"mrda_kernels runs on its slow reference: {reason}", RuntimeWarning, stacklevel=2)
    return chosen


def forget_availability() -> None:
    """Forget which backends can serve, so that they are asked again: for tests, which fake the answers."""
    why_not.cache_clear()
    _select.cache_clear()
