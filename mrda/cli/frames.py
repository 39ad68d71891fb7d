# SPDX-License-Identifier: Apache-2.0
"""`mrda frames`."""

import logging
import re
import time
from pathlib import Path
from typing import Annotated

import typer

from mrda.cli.app import app
from mrda.cli.common import Device, DType, Strength, check_strength, refuse, refusing
from mrda.cli.streams import UnreadableInputError, ending_with_the_reader, standard_streams
from mrda.cli.upscale import check_tile, new_upscaler, upscaler_options, weights_or_auto
from mrda.core.progress import LINE_EVERY
from mrda.photo.files import MAX_PIXELS
from mrda.upscale.choice import AUTO
from mrda.upscale.raw_frames import CutFrameError, FrameFormat, PixelFormat

_log = logging.getLogger(__name__)

SMOOTH = 0.9
"""Default weight of a frame's degradation beside that of the next one."""
_EXAMPLE = "ffmpeg -i clip.mp4 -f rawvideo -pix_fmt rgb24 - | mrda frames --size 320x180 > enlarged.rgb"


@app.command(epilog=f"Example: {_EXAMPLE}", short_help="Upscale raw video in a pipe.")
def frames(
    size: Annotated[str, typer.Option(help="Width and height of the frames in pixels.", metavar="WxH")],
    pix: Annotated[
        PixelFormat,
        typer.Option("--pix", help="Layout of a pixel, as ffmpeg's -pix_fmt names it."),
    ] = "rgb24",
    weights: Annotated[
        Path,
        typer.Option(
            "-w",
            "--weights",
            metavar="WEIGHTS",
            help=f"{AUTO}: those of the package that suit the first frame. Or a .safetensors file, the authors' .pth, "
            "a folder, a name such as mrda-x4, or user/repository on the Hugging Face Hub.",
        ),
    ] = Path(AUTO),
    strength: Strength = None,
    smooth: Annotated[
        float,
        typer.Option(
            help="Weight of a frame's degradation beside that of the next one, 0 to 1: 0 reads each frame by itself, "
            f"{SMOOTH:g} means over about {1 / (1 - SMOOTH):.0f} frames, 1 over all so far.",
            metavar="S",
        ),
    ] = SMOOTH,
    tile: Annotated[
        str,
        typer.Option("-t", "--tile", help="Side of the tiles in pixels of a frame; 0 for no tiles.", metavar="N|auto"),
    ] = "auto",
    dtype: DType = "auto",
    device: Device = None,
) -> None:
    """Upscale raw video from standard input to standard output, with a degradation that is smoothed over time.

    A program such as ffmpeg decodes on one side and encodes on the other; the documentation has both commands.
    """
    format = _format_of(size, pix)
    if not 0 <= smooth <= 1:
        refuse(f"--smooth is {smooth:g}, but must be from 0 to 1")
    check_tile(tile)
    chosen = weights_or_auto(weights)
    check_strength(chosen, strength)
    source, sink = standard_streams(_EXAMPLE)
    from mrda.upscale.frames import FrameUpscaler, upscale_stream
    from mrda.upscale.upscaler import is_out_of_memory

    with refusing():
        upscaler = new_upscaler(chosen, upscaler_options(tile, None, dtype, device), strength)
    _log.info("from %s to %s", format, format.enlarged(upscaler.scale))
    counter = _Counter()
    try:
        with ending_with_the_reader():
            upscale_stream(FrameUpscaler(upscaler, smooth), source, sink, format, counter)
    except CutFrameError as error:
        _log.error("%s: %s; --size and --pix must be those of the input", error, counter)
        raise typer.Exit(1) from None
    except UnreadableInputError as error:
        _log.error("%s: %s", error, counter)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _log.error("stopped: %s", counter)
        raise typer.Exit(130) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _log.error("there is not enough memory for a frame of %s: %s", format, counter)
        raise typer.Exit(1) from None
    if not counter.frames:
        _log.error("standard input is empty: the program before mrda frames gave no frame")
        raise typer.Exit(1)
    _log.info("%s, %s", counter, counter.rate())


def _format_of(size: str, pix: PixelFormat) -> FrameFormat:
    """Read the format that the options name; refuse sizes that are none."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", size, re.ASCII)
    width, height = (0, 0) if match is None else map(int, match.groups())
    if not 0 < width * height <= MAX_PIXELS:
        refuse(f"--size is {size}, but must be width x height, such as 320x180, and no more than {MAX_PIXELS:,} pixels")
    return FrameFormat(width, height, pix)


class _Counter:
    """Counts frames, and says now and then how many they are."""

    def __init__(self) -> None:
        self.frames = 0
        self._start = self._told = time.monotonic()

    def __call__(self, frames: int) -> None:
        """Take the number of frames that are done."""
        self.frames = frames
        if time.monotonic() > self._told + LINE_EVERY:
            self._told = time.monotonic()
            _log.info("%s, %s", self, self.rate())

    def rate(self) -> str:
        """Return frames per second, in words."""
        return f"{self.frames / max(1e-9, time.monotonic() - self._start):.2f} per second"

    def __str__(self) -> str:
        return "1 frame is done" if self.frames == 1 else f"{self.frames} frames are done"
