"""Who is measured: our backends, and the peers, on each device.

On a GPU the compiled peers have torch.compile's mode "max-autotune-no-cudagraphs". With CUDA graphs of its own a
compiled function copies each argument to where the graph expects it, or records a graph per set of arguments, and
overwrites its last result with the next. Called with one set of inputs after the other, as here, it would be timed with
copies that no one else makes. Instead every provider is timed as plain calls and in a CUDA graph of ours, alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import released, shift_add, vmapped
from benchmarks.records import OURS, Setting
from mrda_kernels import dispatch

Operator = Callable[..., Tensor]
"""Computes an op from its tensors."""

Transform = Callable[[Operator], Operator]
"""What is done to a peer before it is called: nothing, or torch.compile."""


@dataclass(frozen=True)
class Provider:
    """One way to compute an op."""

    operator: Operator
    is_compiled: bool = False
    tf32: bool = False
    facts: dict[str, Any] = field(default_factory=dict)  # for its records


def providers(
    setting: Setting, peer: Callable[[Operator, Transform], Operator], ours: Callable[[str | None], Operator]
) -> dict[str, Provider]:
    """Who computes the op of a setting, by name; what is under torch.compile is not compiled yet.

    Args:
        setting: its device and dtype decide who takes part.
        peer: makes the op from one of `benchmarks.peers`, with what the transform does where it pays.
        ours: makes the op on a backend of mrda_kernels; on None, on what `mrda_kernels.dispatch` picks.
    """
    on_gpu = setting.device == "cuda"
    # Without fullgraph, torch.compile would silently hand parts of a peer back to eager PyTorch.
    options = {"fullgraph": True, "dynamic": False} | ({"mode": "max-autotune-no-cudagraphs"} if on_gpu else {})
    compiled = partial(torch.compile, **options)
    found = {"released": Provider(peer(released, _as_it_is))}
    if on_gpu:
        if setting.dtype == torch.float32:
            found["released_tf32"] = Provider(found["released"].operator, tf32=True)
        found["vmap"] = Provider(peer(vmapped, _as_it_is))
    found["released_compiled"] = Provider(peer(released, compiled), is_compiled=True)
    found["shift_add_compiled"] = Provider(peer(shift_add, compiled), is_compiled=True)
    for name, backend in our_backends(setting).items():
        facts = {"backend": backend or picked(setting)}
        found[name] = Provider(ours(backend), facts=facts)
    return found


def our_backends(setting: Setting) -> dict[str, str | None]:
    """Provider's name -> backend of mrda_kernels that it runs on; None lets dispatch pick."""
    if setting.device == "cpu":
        return {OURS: "cpu", f"{OURS}_reference": "reference"}
    return {OURS: None} | {f"{OURS}_{name}": name for name in gpu_backends()}


def gpu_backends() -> list[str]:
    """The names of our own backends that can serve on the GPU here."""
    return [name for name, reason in _why_not_on_a_gpu().items() if reason is None]


def why_nothing_to_measure(device: str) -> str | None:
    """Why none of our own backends can serve on a device, or None where one can."""
    if device == "cuda":
        reasons = _why_not_on_a_gpu()
        if None in reasons.values():
            return None
        return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    try:
        dispatch.select("cpu", "cpu")
    except RuntimeError as error:
        return str(error)
    return None


def picked(setting: Setting) -> str:
    """Return the name of the backend that dispatch picks if the caller names none."""
    chosen = dispatch.select(None, setting.device)
    return str(chosen.__name__.rpartition(".")[2])  # type: ignore[attr-defined]  # modules are named after backends


def _why_not_on_a_gpu() -> dict[str, str | None]:
    names = [name for name in dispatch.ORDER["cuda"] if name != "reference"]
    return {name: dispatch.load(name).why_not("cuda") for name in names}


def _as_it_is(operator: Operator) -> Operator:
    return operator
