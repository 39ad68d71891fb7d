# SPDX-License-Identifier: Apache-2.0
"""Optional packages, which an extra of this project installs."""

import importlib.util


def require_package(module: str, *, name: str, user: str, extra: str) -> None:
    """Check that an optional package is installed, before any work whose result it is required for.

    Args:
        module: name of the package in imports.
        name: name of the package on the package index.
        user: feature that requires it, for the message.
        extra: the extra of this project that installs it.

    Raises:
        ModuleNotFoundError: it is missing; the message names the extra.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except ValueError:  # raised for a module whose import is blocked
        found = False
    if not found:
        raise ModuleNotFoundError(f"{user} needs {name}: pip install 'mrda-kernels[{extra}]'", name=module)
