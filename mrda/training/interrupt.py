"""Ctrl-C that waits for the end of the step, so that no half-updated parameters are ever saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Catch the first SIGINT; a second one interrupts at once, as usual.

    Yields:
        A function that tells whether a SIGINT came. Outside of the main thread, where signals never arrive,
        nothing is caught.
    """
    caught = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: caught
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: caught
    finally:
        signal.signal(signal.SIGINT, previous)
