"""Progress as a test sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class Recorder:
    """Records (description, done, total) at the beginning of a task and at each advance."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, float | None]] = []

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Self]:
        self.told.append((description, 0, total))
        yield self

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        description, done, total = self.told[-1]
        self.told.append((description, done + amount, total))
