"""Which backend serves a call, and why each other one does not."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable
from typing import Protocol, cast

from torch import Tensor

BACKENDS = ("cpu", "reference")
"""Every backend, the preferred one first."""

ENVIRONMENT_VARIABLE = "MRDA_KERNELS_BACKEND"


class Backend(Protocol):
    """What a module under :mod:`mrda_kernels.backends` offers."""

    why_not: Callable[[str], str | None]
    details: Callable[[], str]
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, ...]]


def check_name(name: str | None, source: str = "backend") -> str | None:
    """Return ``name`` where it is None or a backend's; else ValueError, about ``source``."""
    if name is not None and name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}, but must be None or one of {', '.join(BACKENDS)}")
    return name


def load(name: str, source: str = "backend") -> Backend:
    """The backend of that name; ValueError for an unknown one, about ``source``."""
    check_name(name, source)
    return cast(Backend, importlib.import_module(f"mrda_kernels.backends.{name}"))


def select(name: str | None, device_type: str) -> Backend:
    """The backend for a call on tensors of ``device_type``.

    ``name`` is the caller's wish; without one, the environment variable MRDA_KERNELS_BACKEND decides; without that,
    the first backend that can serve. A named backend that can't serve is a RuntimeError that says why.
    """
    wish = name or os.environ.get(ENVIRONMENT_VARIABLE)
    if not wish:
        chosen = next(b for b in BACKENDS if load(b).why_not(device_type) is None)
        if chosen == "reference" and device_type == "cpu":
            _warn_of_slowness()
        return load(chosen)
    source = "backend" if name else ENVIRONMENT_VARIABLE
    backend = load(wish, source)
    reason = backend.why_not(device_type)
    if reason is not None:
        raise RuntimeError(f"{source} is {wish!r}, which can't serve this call: {reason}")
    return backend


@functools.cache
def _warn_of_slowness() -> None:
    warnings.warn(
        f"mrda_kernels runs on its slow reference: {load('cpu').why_not('cpu')}", RuntimeWarning, stacklevel=2
    )
