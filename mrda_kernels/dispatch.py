"""Which backend serves a call, and why each other one does not.

The order of preference is measured: ``preferences.json`` beside this file, which ``python -m benchmarks.preferences``
writes from benchmark results. What has not been measured goes by ``DEFAULT_ORDER``.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from mrda_kernels.memory_format import result_memory_format

BACKENDS = ("cuda", "triton", "cpu", "reference")
"""Every backend that a caller may name."""

EMULATED = "cuda-emulated"
"""The CUDA sources run on the CPU: a backend for this project's tests only, never chosen, not listed in messages."""

DEFAULT_ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
"""For each device type, the backends that may be chosen, the preferred one first; for others, the reference."""

ENVIRONMENT_VARIABLE = "MRDA_KERNELS_BACKEND"
PREFERENCES = Path(__file__).with_name("preferences.json")


class Backend(Protocol):
    """What a module under :mod:`mrda_kernels.backends` offers."""

    why_not: Callable[[str], str | None]
    details: Callable[[], str]
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, ...]]


class Kind(NamedTuple):
    """What speed depends on, besides the device."""

    dtype: str  # "float32", ...
    layout: str  # "nchw" or "channels_last"
    mode: str  # "forward", or "forward_backward" for a backward call

    @classmethod
    def of(cls, input: Tensor, mode: str) -> Kind:
        """The kind of a call on ``input``."""
        channels_last = result_memory_format(input) == torch.channels_last
        return cls(str(input.dtype).removeprefix("torch."), "channels_last" if channels_last else "nchw", mode)


def check_name(name: str | None, source: str = "backend") -> str | None:
    """Return ``name`` where it is None or a backend's; else ValueError, about ``source``."""
    if name is not None and name not in (*BACKENDS, EMULATED):
        raise ValueError(f"{source} is {name!r}, but must be None or one of {', '.join(BACKENDS)}")
    return name


def load(name: str, source: str = "backend") -> Backend:
    """The backend of that name; ValueError for an unknown one, about ``source``."""
    check_name(name, source)
    return cast(Backend, importlib.import_module(f"mrda_kernels.backends.{name.replace('-', '_')}"))


def select(name: str | None, device_type: str, kind: Kind | None = None) -> Backend:
    """The backend for a call of that kind on tensors of ``device_type``.

    ``name`` is the caller's wish; without one, the environment variable MRDA_KERNELS_BACKEND decides; without that,
    the first backend that can serve, in :func:`order`. A named backend that can't serve is a RuntimeError that says
    why.
    """
    wish = name or os.environ.get(ENVIRONMENT_VARIABLE)
    if not wish:
        chosen = next(b for b in order(device_type, kind) if load(b).why_not(device_type) is None)
        if chosen == "reference":
            _warn_of_slowness(device_type)
        return load(chosen)
    source = "backend" if name else ENVIRONMENT_VARIABLE
    backend = load(wish, source)
    reason = backend.why_not(device_type)
    if reason is not None:
        raise RuntimeError(f"{source} is {wish!r}, which can't serve this call: {reason}")
    return backend


@functools.cache
def order(device_type: str, kind: Kind | None = None) -> tuple[str, ...]:
    """The backends to try, the fastest first: as measured for that kind of call, else by default."""
    default = DEFAULT_ORDER.get(device_type, ("reference",))
    measured = _measured().get((device_type, kind), ())
    return (*measured, *(name for name in default if name not in measured))


@functools.cache
def _measured() -> dict[tuple[str, Kind | None], Sequence[str]]:
    """The table of preferences; of two rows for the same kind the later one counts. A broken table is no table."""
    if not PREFERENCES.exists():
        return {}
    table: dict[tuple[str, Kind | None], Sequence[str]]
    try:
        rows = json.loads(PREFERENCES.read_text(encoding="utf-8"))["rows"]
        table = {(row["device"], Kind(row["dtype"], row["layout"], row["mode"])): row["backends"] for row in rows}
        if not all(isinstance(names, list) and set(names) <= set(BACKENDS) for names in table.values()):
            raise ValueError(f"backends must be a list of some of {', '.join(BACKENDS)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(
            f"{PREFERENCES} is not used, for it is no table of preferences ({error!r}); "
            "write it again with python -m benchmarks.preferences",
            RuntimeWarning,
            stacklevel=2,
        )
        return {}
    return table


@functools.cache
def _warn_of_slowness(device_type: str) -> None:
    """Say why the reference serves, where a faster backend should."""
    faster = [name for name in DEFAULT_ORDER.get(device_type, ()) if name != "reference"]
    reasons = [load(name).why_not(device_type) for name in faster]
    if reasons and None not in reasons:
        warnings.warn(f"mrda_kernels runs on its slow reference: {reasons[0]}", RuntimeWarning, stacklevel=2)
