"""Packages that come with an extra only."""

import importlib.util


def require_package(module: str, *, name: str, user: str, extra: str) -> None:
    """Refuse early where a package is missing, before any work that would need it at its end.

    Args:
        module: as it is imported.
        name: as it is installed.
        user: what needs it, for the message.
        extra: of this project, which brings it.

    Raises:
        ModuleNotFoundError: it is missing; the message names the extra.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except ValueError:  # a module that is barred from import has no spec
        found = False
    if not found:
        raise ModuleNotFoundError(f"{user} needs {name}: pip install 'mrda-kernels[{extra}]'", name=module)
