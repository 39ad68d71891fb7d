# SPDX-License-Identifier: Apache-2.0
"""Standard input and output of commands that stand in a pipe."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

import typer

from mrda.cli.common import refuse
from mrda.core.faults import reason
from mrda.core.progress import TerminalProgress
from mrda.photo.files import FORMATS
from mrda.photo.ifd import MAGICS
from mrda.upscale.raw_frames import write_all

if TYPE_CHECKING:
    from mrda.upscale.auto import AutoUpscaler
    from mrda.upscale.batch import Result
    from mrda.upscale.upscaler import Upscaler

_log = logging.getLogger(__name__)

STREAM = "-"
"""Name of standard input in place of a photo."""
BROKEN_PIPE = 141
"""Exit code when the program that reads the output has ended: that of a program which SIGPIPE kills."""
INPUT, OUTPUT = "standard input", "standard output"
_BLOCK = 2**20
_BYTES_PER_PIXEL = 8  # four channels of 16 bits
_METADATA = 2**28


def standard_streams(example: str) -> tuple[BinaryIO, BinaryIO]:
    """Return standard input and output for bytes, without buffers; refuse terminals, with an example of a pipe.

    Reading the input raises `UnreadableInputError` in place of an OSError.
    """
    for stream, name in ((sys.stdin, INPUT), (sys.stdout, OUTPUT)):
        if stream is None or stream.isatty():
            refuse(f"{name} must be a file or another program, not a terminal, as in {example}")
    return cast("BinaryIO", _Input(_raw(sys.stdin))), _raw(sys.stdout)


class UnreadableInputError(ValueError):
    """Standard input can't be read; the message says why."""


class _Input:
    """Standard input, whose errors are not taken for those of files."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, most: int) -> bytes:
        """Read up to so many bytes; none at the end."""
        with self._telling():
            return self._stream.read(most)

    def readinto(self, buffer: memoryview) -> int:
        """Read into a buffer, and return the number of bytes; 0 at the end."""
        with self._telling():
            return self._stream.readinto(buffer)  # type: ignore[attr-defined]

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnreadableInputError(f"cannot read {INPUT}: {reason(error)}") from error


def _raw(stream: TextIO) -> BinaryIO:
    """Return the file below a text stream.

    It has no lock, which a thread that waits for a pipe would hold while the process ends.
    """
    return cast("BinaryIO", getattr(stream.buffer, "raw", stream.buffer))


@contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """End with the exit code BROKEN_PIPE and a message if the program that reads the output has ended."""
    try:
        yield
    except BrokenPipeError:
        _log.error("stopped: the program that reads standard output has ended")
        raise typer.Exit(BROKEN_PIPE) from None


class InterruptedOutputError(KeyboardInterrupt):
    """Ctrl-C after the first bytes may have been written to standard output."""


def upscale_stream(
    upscaler: Upscaler | AutoUpscaler, source: BinaryIO, sink: BinaryIO, *, ext: str, max_pixels: int, **options: Any
) -> Result:
    """Upscale a photo from standard input to standard output, which gets the whole result or nothing.

    Both are files in a temporary folder, so that reading, writing and what is kept are those of files.

    Args:
        upscaler: the upscaler.
        source: standard input.
        sink: standard output.
        ext: a key of `mrda.photo.files.FORMATS`, or "auto": the photo's own format, or PNG if it is not one of them.
        max_pixels: a photo with more pixels fails.
        **options: further options of `mrda.upscale.batch.upscale_photos`.

    Returns:
        The outcome; its messages name the streams.

    Raises:
        BrokenPipeError: the program that reads the output has ended.
        InterruptedOutputError: on Ctrl-C, if the output may have a part of the result, or all of it; before that it is
            a plain KeyboardInterrupt.
    """
    from mrda.upscale.batch import Result, upscale_photos
    from mrda.upscale.jobs import Job

    begun = False
    try:
        with tempfile.TemporaryDirectory(prefix="mrda-") as folder:
            photo = Path(folder) / "input"
            fault = _spool(source, photo, _BYTES_PER_PIXEL * max_pixels + _METADATA)
            format = _format_of(photo) if ext == "auto" else ext
            job = Job(photo, Path(folder), Path(f"output{FORMATS[format]}"), format, fault)
            (result,) = upscale_photos(
                upscaler, [job], workers=1, max_pixels=max_pixels, progress=TerminalProgress(), **options
            )
            if result.state == "done":
                with open(job.target, "rb") as file:
                    begun = True
                    while block := file.read(_BLOCK):
                        write_all(sink, block)
    except KeyboardInterrupt:
        if begun:
            raise InterruptedOutputError from None
        raise

    def told(text: str) -> str:
        return text.replace(str(job.target), OUTPUT).replace(str(photo), INPUT)

    why = None if result.reason is None else told(result.reason)
    return Result(job, result.state, why, tuple(map(told, result.notices)), result.choice)


def _spool(source: BinaryIO, path: Path, most: int) -> str | None:
    """Copy a stream into a file; the reason if it can't be read, or has nothing, or more than ``most`` bytes."""
    with open(path, "wb") as file:
        try:
            while block := source.read(_BLOCK):
                file.write(block)
                if file.tell() > most:
                    return f"cannot read {INPUT}: it has more bytes than a photo of --max-pixels"
        except UnreadableInputError as error:
            return str(error)
    return None if os.path.getsize(path) else f"cannot read {INPUT}: it is empty"


def _format_of(path: Path) -> str:
    """Return the format to write a photo in, by the first bytes of its file: its own, or else PNG."""
    with open(path, "rb") as file:
        head = file.read(12)
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(b"RIFF") and head.endswith(b"WEBP"):
        return "webp"
    return "tiff" if head.startswith(MAGICS) else "png"
