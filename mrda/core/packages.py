# SPDX-License-Identifier: Apache-2.0
"""Optional packages, which an extra of this project installs."""

import importlib.util


def is_installed(module: str) -> bool:
    """Return True if a package can be imported, by its name in imports."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # raised for a module whose import is blocked
        return False


def require_package(module: str, *, name: str, user: str, extra: str) -> None:
    """Check that an optional package is installed, before any work whose result it is required for.

    Args:
        module: name of the package in imports.
        name: name of the package on the package index.
        user: feature that requires it, for the message.
        extra: the extra of this project that installs it.

    Raises:
        ModuleNotFoundError: it is missing; the message names the extra, as it is installed from a clone.
    """
    if not is_installed(module):
        raise ModuleNotFoundError(f"{user} needs {name}: pip install './mrda[{extra}]'", name=module)


def require_training() -> None:
    """Check that the packages which only training needs are installed; raises as `require_package` does."""
    for name in ("accelerate", "tensorboard"):
        require_package(name, name=name, user="training", extra="train")
