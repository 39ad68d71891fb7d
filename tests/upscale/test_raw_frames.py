import io

import numpy as np
import pytest

from mrda.upscale.raw_frames import PIXEL_FORMATS, CutFrameError, FrameFormat, read_frames, write_all


class Dribbling(io.BytesIO):
    """A pipe that gives and takes five bytes at a time."""

    def readinto(self, buffer):
        return super().readinto(memoryview(buffer)[:5])

    def write(self, content):
        return super().write(memoryview(content)[:5])


@pytest.mark.parametrize("pixels", PIXEL_FORMATS)
def test_frames_survive_a_pipe(pixels):
    format = FrameFormat(4, 3, pixels)
    frames = np.random.default_rng(0).integers(0, 65536, (2, *format.shape)).astype(format.dtype)
    pipe = Dribbling()
    for frame in frames:
        write_all(pipe, frame)
    assert pipe.getvalue() == frames.tobytes()
    pipe.seek(0)
    for read, frame in zip(read_frames(pipe, format), frames, strict=True):
        assert read.dtype == frame.dtype
        np.testing.assert_array_equal(read, frame)


def test_an_empty_stream_has_no_frames():
    assert list(read_frames(io.BytesIO(), FrameFormat(4, 3, "rgb24"))) == []


def test_a_cut_frame_is_told_after_the_whole_ones():
    format = FrameFormat(4, 3, "rgb24")
    frames = read_frames(io.BytesIO(bytes(36 + 35)), format)
    assert next(frames).shape == (3, 4, 3)
    with pytest.raises(CutFrameError, match="within frame 2, after 35 of the 36 bytes of a frame of 4x3 rgb24"):
        next(frames)


def test_a_larger_format():
    assert FrameFormat(4, 3, "gray").enlarged(2) == FrameFormat(8, 6, "gray")
