# SPDX-License-Identifier: Apache-2.0
"""One module per backend, loaded on first use by :mod:`mrda_kernels.dispatch`.

A backend offers four functions. ``why_not(device)`` returns None if it can serve tensors on that device, otherwise a
sentence that says why it can't and how to get it; ``details()`` describes one that can. ``forward(call)`` and
``backward(grad_output, call)`` do the work, on checked calls with at least one element.
"""

from __future__ import annotations

import importlib
from typing import Any


def load_extension(name: str = "_C") -> tuple[Any, str | None]:
    """Return a compiled module of mrda_kernels and None; if it can't be loaded, None and the reason."""
    module = f"mrda_kernels.{name}"
    try:
        return importlib.import_module(module), None
    except ImportError as error:
        if error.name not in {None, module, "mrda_kernels"}:
            raise
        return None, str(error)


REINSTALL = "pip install --force-reinstall --no-deps --no-cache-dir"
"""The command that builds the package again: pip would otherwise take the wheel that it built before from its cache."""


def install_hint(reason: str) -> str:
    """Return the sentence for a missing extension: the reason, and what to install."""
    return (
        f"the compiled extension mrda_kernels._C does not load ({reason}); "
        f"install a C++17 compiler, then the package again with {REINSTALL}"
    )
