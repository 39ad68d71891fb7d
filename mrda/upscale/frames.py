# SPDX-License-Identifier: Apache-2.0
"""Upscaling the frames of a video, by a degradation that is smoothed over time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import BinaryIO, Generic, TypeVar

import torch

from mrda.photo.lanczos import resampled
from mrda.photo.photo import Photo
from mrda.photo.source import ImageArray
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.choice import choose
from mrda.upscale.raw_frames import FrameFormat, read_frames, write_all
from mrda.upscale.upscaler import Upscaler

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
Upscale = Callable[[ImageArray], ImageArray]


class SmoothedDegradation:
    """The exponentially weighted mean of the degradations of the frames so far.

    A frame weighs ``smooth`` times as much as the next one, from the first on: the mean of few frames is not drawn to
    any of them.

    Args:
        smooth: 0 to 1; 0 is the last frame's degradation, 1 the plain mean of all.
    """

    def __init__(self, smooth: float) -> None:
        self.smooth = smooth
        self._mean: torch.Tensor | None = None
        self._weight = 0.0

    def __call__(self, degradation: torch.Tensor) -> torch.Tensor:
        """Return the mean (B, 4C) with one more frame's degradation (B, 4C)."""
        self._weight = self.smooth * self._weight + 1
        if self._mean is None or self.smooth == 0:
            self._mean = degradation
        else:
            self._mean = self._mean + (degradation - self._mean) / self._weight
        return self._mean


class FrameUpscaler:
    """Upscales frame after frame of a video.

    Args:
        upscaler: the upscaler; of an `AutoUpscaler` the weights that suit the first frame upscale all.
        smooth: as for `SmoothedDegradation`.

    Raises:
        ValueError: ``smooth`` is not from 0 to 1.
    """

    def __init__(self, upscaler: Upscaler | AutoUpscaler, smooth: float) -> None:
        if not 0 <= smooth <= 1:
            raise ValueError(f"smooth is {smooth:g}, but must be from 0 to 1")
        self._smoothed = SmoothedDegradation(smooth)
        self._upscale = self._chosen(upscaler) if isinstance(upscaler, AutoUpscaler) else self._by(upscaler)

    def __call__(self, frame: ImageArray) -> ImageArray:
        """Upscale the next frame: (H, W) or (H, W, C), uint8 or uint16, as `Upscaler` takes and returns it."""
        return self._upscale(frame)

    def _by(self, upscaler: Upscaler) -> Upscale:
        if self._smoothed.smooth == 0:
            return upscaler
        return lambda frame: upscaler(frame, degradation=self._smoothed(upscaler.read_degradation(frame)))

    def _chosen(self, upscaler: AutoUpscaler) -> Upscale:
        """Return a function that makes the choice at its first frame."""

        def first(frame: ImageArray) -> ImageArray:
            choice = choose(Photo(frame))
            _log.info("the first frame: %s", choice)
            self._upscale = plain if choice.weights is None else self._by(upscaler.upscaler(choice.weights))
            return self._upscale(frame)

        def plain(frame: ImageArray) -> ImageArray:
            height, width = frame.shape[:2]
            return resampled(frame, (upscaler.scale * height, upscaler.scale * width))

        return first


def upscale_stream(
    upscale: Upscale, source: BinaryIO, sink: BinaryIO, format: FrameFormat, told: Callable[[int], None]
) -> None:
    """Upscale raw frames from a stream into another; the next one is read and the last one written meanwhile.

    Args:
        upscale: upscales a frame, such as a `FrameUpscaler`.
        source: gives the frames.
        sink: takes the results.
        format: the frames' format.
        told: called with the number of frames that are written, after each, in another thread.

    Raises:
        CutFrameError: the input ends within a frame; the results of those before it have been written.
        BrokenPipeError: nobody reads the results any more.
        KeyboardInterrupt: on Ctrl-C, after the result that was being written.
    """
    frames = read_frames(source, format)
    reading = _started(partial(next, frames, None))
    writing: _InBackground[None] | None = None
    number = 0

    def write(frame: ImageArray, number: int) -> None:
        write_all(sink, frame)
        told(number)

    try:
        while (frame := reading.result()) is not None:
            reading = _started(partial(next, frames, None))
            enlarged = upscale(frame)
            _finish(writing)
            number += 1
            # Known before it begins: whatever interrupts this thread from then on, the frame will be whole and counted.
            writing = _InBackground(partial(write, enlarged, number))
            writing.start()
    except BaseException:
        with suppress(OSError):
            _finish(writing)
        raise
    _finish(writing)


class _InBackground(Generic[Result]):
    """A call in a thread that does not keep the process from ending, as one that waits for a pipe may wait for ever."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call, self._future = call, Future[Result]()
        self._thread = threading.Thread(target=self._settle, daemon=True)

    def start(self) -> None:
        """Begin the call."""
        self._thread.start()

    @property
    def is_started(self) -> bool:
        """True if the call began."""
        return self._thread.ident is not None

    def result(self) -> Result:
        """Wait for what the call returns or raises."""
        return self._future.result()

    def _settle(self) -> None:
        try:
            self._future.set_result(self._call())
        except BaseException as error:
            self._future.set_exception(error)


def _started(call: Callable[[], Result]) -> _InBackground[Result]:
    begun = _InBackground(call)
    begun.start()
    return begun


def _finish(writing: _InBackground[None] | None) -> None:
    if writing is not None and writing.is_started:
        writing.result()
