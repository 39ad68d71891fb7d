"""What a run refuses, as opposed to what goes wrong in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RunRefusedError(ValueError):
    """A run can't be started or continued as asked; the message is one sentence on what to mend."""


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the ValueErrors of a preparation into `RunRefusedError`; those of the training itself stay what they are."""
    try:
        yield
    except ValueError as error:
        raise RunRefusedError(str(error)) from error
