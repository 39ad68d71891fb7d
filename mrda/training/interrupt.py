"""Ctrl-C that waits for the end of the step, so that no half-updated parameters are ever saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""A person's Ctrl-C, and what schedulers and launchers send before they kill."""


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Catch the first SIGINT and the first SIGTERM; a second one of its kind acts at once, as usual.

    Launchers pass a person's Ctrl-C on as SIGTERM: that one must not cut the first short.

    Yields:
        A function that tells whether one came. Outside of the main thread, where signals never arrive,
        nothing is caught.
    """
    caught = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: caught
        return
    previous = {int(number): signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = True
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, note)
    try:
        yield lambda: caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
