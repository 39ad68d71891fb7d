"""`mrda upscale -`: a photo from standard input to standard output."""

import io
import os
import signal
import subprocess

import numpy as np
import pytest
from commands import one_sentence, refused, start
from PIL import Image
from typer.testing import CliRunner

from mrda.cli import app
from mrda.photo.files import read_photo


def pipe(content, *arguments):
    return CliRunner().invoke(app, ["upscale", "-", *map(str, arguments)], input=content)


def saved(rgb, kind, **options):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("TIFF", "tif")])
def test_the_result_is_that_of_a_file(tmp_path, rgb, weights, kind, suffix):
    content = saved(rgb, kind, dpi=(300, 300)) if kind != "WEBP" else saved(rgb, kind, quality=90)
    (tmp_path / f"photo.{suffix}").write_bytes(content)
    CliRunner().invoke(app, ["upscale", str(tmp_path / f"photo.{suffix}"), "-w", str(weights)])
    result = pipe(content, "-w", weights)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout_bytes == (tmp_path / f"photo_x2.{suffix}").read_bytes()


def test_the_format_can_be_another(tmp_path, rgb, weights):
    result = pipe(saved(rgb, "BMP"), "-w", weights, "-s", 1.5, "--format", "jpg")
    assert result.exit_code == 0, result.stderr
    (tmp_path / "result").write_bytes(result.stdout_bytes)
    photo = read_photo(tmp_path / "result")
    assert photo.jpeg_quality is not None
    assert photo.pixels.shape == (36, 45, 3)


def test_16_bits_and_notices(rgb, weights):
    deep = io.BytesIO()
    Image.fromarray(np.uint16(rgb[..., 0]) * 257).save(deep, "PNG")
    result = pipe(deep.getvalue(), "-w", weights, "--format", "jpg")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "mrda: standard input: 16 bits were reduced to 8, because jpg has no more\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot read standard input: it is empty"),
        (b"milk, bread", "cannot read standard input: it is not an image of a known format"),
        (None, "cannot read standard input: "),
    ],
)
def test_a_photo_that_fails_leaves_the_output_empty(rgb, weights, content, words):
    result = pipe(saved(rgb, "PNG")[:900] if content is None else content, "-w", weights)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert words in result.stderr
    assert result.stdout_bytes == b""


def test_a_photo_with_too_many_pixels_or_bytes_fails(rgb, weights, monkeypatch):
    result = pipe(saved(rgb, "PNG"), "-w", weights, "--max-pixels", 100)
    assert "cannot read standard input: it has 30 x 24 = 720 pixels, more than the 100" in result.stderr
    monkeypatch.setattr("mrda.cli.streams._METADATA", 0)
    result = pipe(saved(rgb, "PNG"), "-w", weights, "--max-pixels", 100)
    assert result.stderr == "mrda: cannot read standard input: it has more bytes than a photo of --max-pixels\n"
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photo.jpg"], "- stands for standard input and must be alone"),
        (["-o", "out"], "-o is for files, and - reads and writes none"),
        (["--suffix", "x"], "--suffix is for files"),
        (["--manifest", "done.jsonl"], "--manifest is for files"),
        (["--skip-existing"], "--skip-existing is for files"),
        (["--dry-run"], "--dry-run is for files"),
        (["--json"], "--json is for files"),
        (["-r"], "-r is for files"),
    ],
)
def test_options_of_files_are_refused(tmp_path, rgb, weights, arguments, words):
    refused(pipe(saved(rgb, "PNG"), "-w", weights, *arguments), tmp_path / "out", words)


@pytest.mark.slow
@pytest.mark.xdist_group("system")
def test_a_reader_that_ends_ends_the_command(rgb, photo, weights):
    with photo.open("rb") as file:
        process = start("upscale", "-", "-w", weights, stdin=file, stdout=subprocess.PIPE)
        process.stdout.close()
        said = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert said == "mrda: stopped: the program that reads standard output has ended\n"


@pytest.fixture
def closed_to_readers(tmp_path):
    """A stream that the system refuses to read, as it does folders."""
    with open(os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT), "rb", buffering=0) as file:
        yield file


@pytest.mark.parametrize(
    ("command", "end"), [(["upscale", "-"], ""), (["frames", "--size", "9x7"], ": 0 frames are done")]
)
def test_input_that_cannot_be_read_fails_with_one_sentence(weights, monkeypatch, closed_to_readers, command, end):
    monkeypatch.setattr("mrda.cli.streams._raw", lambda _: closed_to_readers)
    result = CliRunner().invoke(app, [*command, "-w", str(weights)], input=b"")
    assert result.exit_code == 1, result.exception
    assert result.stderr.splitlines()[-1] == f"mrda: cannot read standard input: Bad file descriptor{end}"


def test_ctrl_c_before_the_result_is_written(rgb, weights, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mrda.upscale.batch.upscale_photos", stopped)
    result = pipe(saved(rgb, "PNG"), "-w", weights)
    assert (result.exit_code, result.stderr) == (130, "mrda: stopped: nothing was written\n")
    assert result.stdout_bytes == b""


@pytest.mark.slow
@pytest.mark.xdist_group("system")
def test_ctrl_c_while_the_result_is_written(photo, weights):
    with photo.open("rb") as file:  # the result is larger than what a pipe takes before somebody reads it
        process = start("upscale", "-", "-w", weights, "-s", 16, "--ext", "tiff", stdin=file, stdout=subprocess.PIPE)
        assert process.stdout.buffer.read(1) == b"I"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    process.stdout.close()
    assert process.wait(timeout=60) == 130
    last = "mrda: stopped: standard output may have only a part of the result: discard it"
    assert said.splitlines()[-1] == last
