"""`mrda frames`, alone and between two ffmpeg, where that is installed."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import REPOSITORY, one_sentence, refused, start
from torch import nn
from typer.testing import CliRunner

from mrda.cli import app
from mrda.networks import MRDAStudent, save_network
from mrda.upscale.upscaler import Upscaler

PAGE = REPOSITORY / "docs" / "video.md"
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, 7, 9, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Weights that enlarge by 4 and repeat pixels."""
    torch.manual_seed(0)
    student = MRDAStudent(scale=4, num_feat=8, num_blocks=1, den_width=4)
    rdan = student.rdan
    first, second = (layer for layer in rdan.upscaler.expand if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        for conv in (
            rdan.head,
            rdan.blocks[0].conv1,
            rdan.blocks[0].conv2,
            rdan.body_tail,
            first,
            second,
            rdan.upscaler.last,
        ):
            conv.weight.zero_()
            conv.bias.zero_()
        for channel in range(3):
            for conv in (rdan.head, rdan.upscaler.last):
                conv.weight[channel, channel, 1, 1] = 1
            for conv in (first, second):
                conv.weight[4 * channel : 4 * channel + 4, channel, 1, 1] = 1
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    save_network(student, path)
    return path


def pipe(content, *arguments):
    return CliRunner().invoke(app, ["frames", *map(str, arguments)], input=content)


def test_frames_come_out_enlarged(frames, weights):
    result = pipe(frames.tobytes(), "--size", "9x7", "-w", weights, "--smooth", 0, "--dtype", "fp32")
    assert result.exit_code == 0, result.stderr
    upscaler = Upscaler.from_pretrained(weights, device="cpu", dtype=torch.float32)
    assert result.stdout_bytes == b"".join(upscaler(frame).tobytes() for frame in frames)
    assert "from 9x7 rgb24 to 18x14 rgb24" in result.stderr
    assert "3 frames are done" in result.stderr


def test_frames_of_16_bit_gray(weights):
    frames = np.arange(126, dtype="<u2").reshape(2, 7, 9) * 520
    result = pipe(frames.tobytes(), "--size", "9x7", "--pix", "gray16le", "-w", weights)
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout_bytes) == 4 * frames.nbytes


def test_input_that_ends_within_a_frame(frames, weights):
    result = pipe(frames.tobytes()[:-1], "--size", "9x7", "-w", weights)
    assert result.exit_code == 1
    assert len(result.stdout_bytes) == 2 * 4 * frames[0].nbytes
    assert "within frame 3, after 188 of the 189 bytes" in result.stderr
    assert "--size and --pix must be those of the input" in result.stderr


def test_no_input(weights):
    result = pipe(b"", "--size", "9x7", "-w", weights)
    assert result.exit_code == 1
    assert "standard input is empty" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "9"], "--size is 9, but must be width x height"),
        (["--size", "0x7"], "--size is 0x7"),
        (["--size", "99999x99999"], "no more than 250,000,000 pixels"),
        (["--size", "9x7", "--smooth", "2"], "--smooth is 2, but must be from 0 to 1"),
        (["--size", "9x7", "--tile", "large"], "--tile is 'large'"),
        (["--size", "9x7", "-w", "nothing"], "there is no weights file nothing"),
    ],
)
def test_wrong_options_are_refused(tmp_path, frames, arguments, words):
    refused(pipe(frames.tobytes(), *arguments), tmp_path / "out", words)


@pytest.mark.xdist_group("system")
def test_a_terminal_is_refused(weights):
    leader, follower = os.openpty()
    try:
        process = start("frames", "--size", "9x7", "-w", weights, stdin=follower)
        _, said = process.communicate(timeout=60)
    finally:
        os.close(leader)
        os.close(follower)
    assert process.returncode == 2
    assert one_sentence(said)
    assert "standard input must be a file or another program, not a terminal" in said


@pytest.mark.slow
@pytest.mark.xdist_group("system")
def test_a_reader_that_ends_ends_the_command(frames, weights):
    process = start("frames", "--size", "9x7", "-w", weights, stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write("x" * 189 * 9)
    process.stdin.close()
    said = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert said.splitlines()[-1] == "mrda: stopped: the program that reads standard output has ended"
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@pytest.mark.slow
@pytest.mark.xdist_group("system")
def test_ctrl_c_ends_a_command_that_waits_for_frames(frames, weights):
    process = start("frames", "--size", "9x7", "-w", weights, stdin=subprocess.PIPE)
    process.stdin.write("x" * 189 * 2)  # and the pipe stays open
    process.stdin.flush()
    assert len(process.stdout.buffer.read(2 * 4 * 189)) == 2 * 4 * 189
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=60) == 130
    process.stdin.close()
    assert said.splitlines()[-1] == "mrda: stopped: 2 frames are done"
    assert "Fatal" not in said


def pipelines():
    """The blocks of the page whose commands are pipes."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if "mrda frames" in block]


@needs_ffmpeg
@pytest.mark.slow
@pytest.mark.xdist_group("system")
def test_the_commands_of_the_page_keep_frames_and_colours(tmp_path, plain):
    colours = ("red", "lime", "blue", "gray")
    clip = [f"color={colour}:size=40x24:rate=24:duration=1" for colour in colours]
    stacked = [word for source in clip for word in ("-f", "lavfi", "-i", source)]
    run = ["ffmpeg", "-v", "error", "-y", *stacked, "-f", "lavfi", "-i", "sine=duration=1"]
    run += ["-filter_complex", "[0][1]hstack[a];[2][3]hstack[b];[a][b]vstack,scale=out_color_matrix=bt709[v]"]
    run += ["-map", "[v]", "-map", "4:a", "-pix_fmt", "yuv444p", "-colorspace", "bt709", tmp_path / "clip.mkv"]
    subprocess.run(run, check=True)
    shim = tmp_path / "bin" / "mrda"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mrda "$@" -w {shlex.quote(str(plain))}\n')
    shim.chmod(0o755)
    path = {"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    (command,) = pipelines()
    command = command.replace("clip.mp4", "clip.mkv").replace("320x180", "80x48").replace("1280x720", "320x192")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail\n{command}"], cwd=tmp_path, env={**os.environ, **path}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"24 frames are done" in done.stderr
    decode = ["ffmpeg", "-v", "error", "-i", Path("enlarged.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(decode, cwd=tmp_path, check=True, capture_output=True).stdout
    video = np.frombuffer(raw, np.uint8).reshape(-1, 192, 320, 3).astype(int)
    assert len(video) == 24
    expected = {(48, 80): (255, 0, 0), (48, 240): (0, 255, 0), (144, 80): (0, 0, 255), (144, 240): (128, 128, 128)}
    for (row, column), colour in expected.items():
        assert abs(video[:, row, column] - colour).max() <= 6, (row, column)
    streams = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", tmp_path / "enlarged.mp4"], capture_output=True
    )
    assert b"codec_type=audio" in streams.stdout
    assert b"color_space=bt709" in streams.stdout
