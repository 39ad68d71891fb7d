import io

import numpy as np
import pytest
import torch

from mrda.networks import MRDAStudent
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.choice import Choice
from mrda.upscale.frames import FrameUpscaler, SmoothedDegradation, upscale_stream
from mrda.upscale.raw_frames import CutFrameError, FrameFormat
from mrda.upscale.upscaler import Upscaler

FORMAT = FrameFormat(9, 7, "rgb24")


@pytest.fixture(scope="module")
def upscaler():
    torch.manual_seed(0)
    return Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4), dtype=torch.float32)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, *FORMAT.shape), dtype=np.uint8)


def run(upscale, frames, sink=None, cut=0):
    sink, told = sink or io.BytesIO(), []
    content = frames.tobytes()
    upscale_stream(upscale, io.BytesIO(content[: len(content) - cut]), sink, FORMAT, told.append)
    return np.frombuffer(sink.getvalue(), np.uint8).reshape(-1, 14, 18, 3), told


@pytest.mark.parametrize("smooth", [0.0, 0.5, 1.0])
def test_the_weights_of_frames_decay(smooth):
    seen = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0))
    smoothed = SmoothedDegradation(smooth)
    for count in range(1, 5):
        weights = torch.tensor([smooth ** (count - 1 - age) for age in range(count)])
        expected = (weights[:, None, None] * seen[:count]).sum(0) / weights.sum()
        torch.testing.assert_close(smoothed(seen[count - 1]), expected)


def test_without_smoothing_each_frame_is_upscaled_by_itself(upscaler, frames):
    results, told = run(FrameUpscaler(upscaler, 0), frames)
    np.testing.assert_array_equal(results, [upscaler(frame) for frame in frames])
    assert told == [1, 2, 3]


def test_frames_are_upscaled_by_the_smoothed_degradation(upscaler, frames):
    results, _ = run(FrameUpscaler(upscaler, 1), frames)
    vectors = [upscaler.read_degradation(frame) for frame in frames]
    mean = torch.stack(vectors).mean(dim=0)
    np.testing.assert_array_equal(results[2], upscaler(frames[2], degradation=mean))


def test_the_degradation_that_is_read_is_that_of_the_network(upscaler, frames):
    lr = torch.from_numpy(frames[0]).permute(2, 0, 1)[None] / 255
    vector = upscaler.read_degradation(frames[0])
    torch.testing.assert_close(vector, upscaler.network.den(lr))
    np.testing.assert_array_equal(upscaler(frames[0], degradation=vector), upscaler(frames[0]))
    other = upscaler(frames[0], degradation=vector + 30 * torch.randn_like(vector))
    assert (other != upscaler(frames[0])).any()


def test_tiles_share_the_given_degradation(frames):
    torch.manual_seed(0)
    student = MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4)
    vector = 30 * torch.randn(1, 16)
    whole, tiled = (Upscaler(student, tile=tile, dtype=torch.float32) for tile in (None, 4))
    difference = whole(frames[0], degradation=vector).astype(int) - tiled(frames[0], degradation=vector)
    assert abs(difference).max() <= 1


def test_the_first_frame_chooses_the_weights(upscaler, frames, monkeypatch, caplog):
    chosen = iter([Choice("mrda-x4", "it looks clean")])
    monkeypatch.setattr("mrda.upscale.frames.choose", lambda photo: next(chosen))
    monkeypatch.setattr(AutoUpscaler, "upscaler", lambda self, weights: upscaler)
    with caplog.at_level("INFO"):
        results, _ = run(FrameUpscaler(AutoUpscaler(), 0), frames)
    np.testing.assert_array_equal(results, [upscaler(frame) for frame in frames])
    assert len(caplog.messages) == 1
    assert "the first frame: it looks clean" in caplog.text


def test_frames_that_no_weights_suit_are_resampled(frames, monkeypatch):
    monkeypatch.setattr("mrda.upscale.frames.choose", lambda photo: Choice(None, "it has noise"))
    monkeypatch.setattr(AutoUpscaler, "scale", 2)
    results, _ = run(FrameUpscaler(AutoUpscaler(), 0.5), np.full_like(frames, 77))
    np.testing.assert_array_equal(results, np.full((3, 14, 18, 3), 77))


def test_whole_frames_before_a_cut_one_are_written(upscaler, frames):
    sink = io.BytesIO()
    with pytest.raises(CutFrameError):
        run(FrameUpscaler(upscaler, 0), frames, sink, cut=1)
    assert len(sink.getvalue()) == 2 * 14 * 18 * 3


def test_an_interrupted_stream_ends_with_a_whole_frame(upscaler, frames):
    sink = io.BytesIO()

    def interrupted(number):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_stream(FrameUpscaler(upscaler, 0), io.BytesIO(frames.tobytes()), sink, FORMAT, interrupted)
    assert len(sink.getvalue()) == 2 * 14 * 18 * 3


def test_a_closed_pipe_ends_the_work(upscaler, frames):
    class Closed(io.BytesIO):
        def write(self, content):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(FrameUpscaler(upscaler, 0), frames, Closed())


@pytest.mark.parametrize("smooth", [-0.1, 1.1, float("nan")])
def test_smoothing_outside_of_0_to_1_is_refused(upscaler, smooth):
    with pytest.raises(ValueError, match=r"smooth is .* must be from 0 to 1"):
        FrameUpscaler(upscaler, smooth)
