"""Files that are not the photos their names promise: none is executed, and none ends a run."""

import os
import struct
import warnings
import zlib
from contextlib import suppress

import pytest
from PIL import EpsImagePlugin, Image, PngImagePlugin

from mrda.photo.files import read_photo
from mrda.photo.images import ImageError, read_image, read_rgb, read_size
from mrda.photo.opening import RASTER_FORMATS

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\nno_such_operator\n%%EOF\n"
DOS_EPS = struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(EPS), 0, 0, 0, 0, 0xFFFF)[:30] + EPS


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A Ghostscript that leaves a trace when it is run."""
    folder, trace = tmp_path / "bin", tmp_path / "executed"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return trace


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif", "photo.eps", "photo"])
@pytest.mark.parametrize("content", [EPS, DOS_EPS], ids=["eps", "dos"])
@pytest.mark.parametrize("read", [read_photo, read_rgb, read_image, read_size])
def test_postscript_is_not_executed(tmp_path, ghostscript, name, content, read):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"photo\S*: it is PostScript, a program that draws, and no photo$"):
        read(path)
    assert not ghostscript.exists()


def test_pillow_alone_executes_it(tmp_path, ghostscript):
    path = tmp_path / "photo.jpg"
    path.write_bytes(EPS)
    with suppress(Image.UnidentifiedImageError), Image.open(path) as image:  # our Ghostscript draws nothing
        image.load()
    assert ghostscript.exists()


def test_postscript_inside_of_a_photo_s_container_is_not_executed(tmp_path, ghostscript):
    path = tmp_path / "iptc.jpg"
    iptc = b"\x1c\x03\x3c\0\x02\x01\0" + b"\x1c\x03\x14\0\x02\0\x18" + b"\x1c\x03\x1e\0\x02\0\x10"
    path.write_bytes(iptc + b"\x1c\x03\x78\0\x01\x01" + b"\x1c\x08\x0a" + struct.pack(">H", len(EPS)) + EPS)
    with pytest.raises(ImageError, match="not an image of a known format"):
        read_photo(path)
    assert not ghostscript.exists()


def test_no_listed_format_is_drawn_by_another_program():
    assert not {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "IPTC", "PDF"} & set(RASTER_FORMATS)
    Image.init()
    assert set(RASTER_FORMATS) - set(Image.OPEN) <= {"HEIF"}


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
        struct.error("unpack requires a buffer of 4 bytes"),
        SyntaxError("broken PNG file (chunk b'xx')"),
        zlib.error("Error -3 while decompressing data: invalid block type"),
        Image.DecompressionBombError("Image size exceeds limit"),
        AssertionError(),
        NotImplementedError("two\nlines. And more"),
        EOFError("no more images"),
        UserWarning("Corrupt EXIF data."),
        KeyError(3),
        OSError("image file is truncated (3 bytes not processed)"),
        OSError(5, "Input/output error", "photo.png"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["_open", "load"])
def test_any_error_of_a_decoder_is_the_photo_s(tmp_path, monkeypatch, error, where):
    def fail(*_):
        raise error

    path = tmp_path / "photo.png"
    Image.new("RGB", (4, 4)).save(path)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, where, fail)
    for read in (read_photo, read_rgb):
        with pytest.raises(ImageError) as raised:
            read(path)
        message = str(raised.value)
        assert message.startswith(f"cannot read {path}: ")
        assert "\n" not in message
        assert not message.endswith((".", ": "))
        assert message.count(str(path)) == 1


def test_a_warning_that_is_an_error_is_the_photo_s(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 40)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="could be decompression bomb"):
            read_photo(path)
