# SPDX-License-Identifier: Apache-2.0
"""Raw video: frames one after another as bare pixels, as `ffmpeg -f rawvideo` reads and writes them.

torch is not imported, so that wrong formats are refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from mrda.photo.source import ImageArray


class _Pixels(NamedTuple):
    """Layout of a pixel: the number of channels, and the numpy dtype of each."""

    channels: int
    dtype: str


PixelFormat = Literal["rgb24", "rgba", "gray", "rgb48le", "rgba64le", "gray16le"]
PIXEL_FORMATS: Mapping[PixelFormat, _Pixels] = {
    "rgb24": _Pixels(3, "u1"),
    "rgba": _Pixels(4, "u1"),
    "gray": _Pixels(1, "u1"),
    "rgb48le": _Pixels(3, "<u2"),
    "rgba64le": _Pixels(4, "<u2"),
    "gray16le": _Pixels(1, "<u2"),
}
"""Layouts of pixels, by ffmpeg's names."""


class CutFrameError(ValueError):
    """The stream has ended within a frame."""


@dataclass(frozen=True)
class FrameFormat:
    """Size and layout of raw frames.

    Attributes:
        width: columns.
        height: rows.
        pixels: a key of `PIXEL_FORMATS`.
    """

    width: int
    height: int
    pixels: PixelFormat

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a frame as an image: (H, W) of gray, or else (H, W, C)."""
        channels = PIXEL_FORMATS[self.pixels].channels
        return (self.height, self.width) if channels == 1 else (self.height, self.width, channels)

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """Dtype of a frame."""
        return np.dtype(PIXEL_FORMATS[self.pixels].dtype)

    def enlarged(self, scale: int) -> FrameFormat:
        """Return the format of frames that are ``scale`` times as wide and high."""
        return replace(self, width=scale * self.width, height=scale * self.height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.pixels}"


def read_frames(file: BinaryIO, format: FrameFormat) -> Iterator[ImageArray]:
    """Read frames to the end of a stream.

    Args:
        file: a binary file or pipe; it may give a part of what is asked for at a time.
        format: the frames' format.

    Yields:
        Frames of the format's shape and dtype.

    Raises:
        CutFrameError: the stream ends within a frame.
    """
    number = 0
    while True:
        frame = np.empty(format.shape, format.dtype)
        left = frame.reshape(-1).view(np.uint8).data
        whole = len(left)
        while left and (count := file.readinto(left)):  # type: ignore[attr-defined]
            left = left[count:]
        if len(left) == whole:
            return
        number += 1
        if left:
            raise CutFrameError(
                f"the input ends within frame {number}, after {whole - len(left):,} of the {whole:,} bytes of a frame "
                f"of {format}"
            )
        yield frame


def write_all(file: BinaryIO, content: bytes | ImageArray) -> None:
    """Write to a file or pipe without a buffer, which may take a part of the content at a time."""
    left = memoryview(content) if isinstance(content, bytes) else content.reshape(-1).view(np.uint8).data
    while left:
        left = left[file.write(left) :]
