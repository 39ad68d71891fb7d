"""Files that are no photos, or of kinds that are not read, say what they are and what to do."""

import logging

import numpy as np
import pytest
from PIL import Image

from mrda.photo import kinds
from mrda.photo.files import read_photo
from mrda.photo.images import ImageError, find_images, read_rgb, read_size
from mrda.photo.source import SUFFIXES


def container(*brands):
    head = b"ftyp" + brands[0] + bytes(4) + b"".join(brands)
    return (4 + len(head)).to_bytes(4, "big") + head


FILES = {
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "`djxl photo.jxl photo.png` converts it"),
    "JPEG XL, bare": (b"\xff\x0a" + bytes(40), "JPEG XL"),
    "OpenEXR": (b"v/1\x01" + bytes(40), "OpenEXR"),
    "Radiance": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n1234", "Radiance HDR"),
    "PFM": (b"PF\n1 1\n-1.0\n123456789012", "PFM"),
    "Photoshop": (b"8BPS" + bytes(40), "Photoshop document"),
    "CR3": (container(b"crx ", b"isom"), "camera's raw file"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", "camera's raw file"),
    "ORF": (b"IIRO\x08\0\0\0" + bytes(40), "camera's raw file"),
    "RW2": (b"IIU\0\x18\0\0\0" + bytes(40), "camera's raw file"),
    "PDF": (b"%PDF-1.7\n", "PDF"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\nshowpage\n", "PostScript"),
    "SVG": (b"<?xml version='1.0'?>\n<!-- a drawing --><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    "HTML": (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
    "MP4": (container(b"isom", b"mp42"), "video"),
    "MOV": (container(b"qt  "), "video"),
    "AVI": (b"RIFF\x10\0\0\0AVI LIST", "video"),
    "Matroska": (b"\x1aE\xdf\xa3" + bytes(40), "video"),
    "DICOM": (bytes(128) + b"DICM" + bytes(40), "DICOM"),
    "12 bits": (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x10\0\x10\1\1\x11\0", "JPEG of 12 bits"),
    "lossless": (b"\xff\xd8\xff\xe0\0\4ab\xff\xc3\0\x0b\x08\0\x10\0\x10\1\1\x11\0", "lossless JPEG"),
    "JPEG-LS": (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x10\0\x10\1\1\x11\0", "lossless JPEG"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    "ZIP": (b"PK\3\4" + bytes(40), "ZIP"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_a_file_says_what_it_is_whatever_its_suffix(tmp_path, name, suffix):
    content, expected = FILES[name]
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(content)
    for read in (read_photo, read_rgb, read_size):
        with pytest.raises(ImageError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"cannot read {path}: it is ")
        assert expected in message
        assert message.count(str(path)) == 1
        assert "\n" not in message


@pytest.mark.parametrize(
    "format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "TGA", "JPEG2000", "QOI"]
)
def test_no_photo_is_taken_for_another_kind(tmp_path, format):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    image.save(tmp_path / "a", format)
    assert format == "AVIF" or kinds.describe((tmp_path / "a").read_bytes()[: kinds.HEAD]) is None
    assert read_photo(tmp_path / "a").pixels.shape == (16, 24, 3)


def test_a_folder_tells_how_many_photos_are_not_read(tmp_path, caplog):
    for name in ("a.CR2", "b.dng", "c.dng", ".hidden.dng", "d.txt", "e.mov", "sub/f.dng"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match=r"holds no image .*; left out 3 photos of kinds .* \(1 \.cr2, 2 \.dng\)"):
        find_images([tmp_path])
    (tmp_path / "photo.png").touch()
    with caplog.at_level(logging.WARNING):
        assert find_images([tmp_path]) == [tmp_path / "photo.png"]
    assert caplog.messages == [f"{tmp_path}: left out 3 photos of kinds that are not read (1 .cr2, 2 .dng)"]
    with caplog.at_level(logging.WARNING):
        find_images([tmp_path], recursive=True)
    assert "left out 4 photos" in caplog.messages[-1]
    caplog.clear()
    find_images([tmp_path / "photo.png", tmp_path / "b.dng"])  # which are named themselves
    assert not caplog.messages


def test_the_extra_is_named_where_it_would_read_more(tmp_path, monkeypatch):
    monkeypatch.setattr("mrda.photo.kinds.SUFFIXES", SUFFIXES - {".heic", ".heif", ".hif"})
    told = kinds.left_out([tmp_path / "a.HEIC"])
    assert told == "left out 1 photo of a kind that is not read (1 .heic); `pip install './mrda[formats]'` reads HEIC"
    assert kinds.left_out([tmp_path / "a.jpg"]) is None
    monkeypatch.setattr("mrda.photo.kinds.SUFFIXES", SUFFIXES | {".heic"})
    assert kinds.left_out([tmp_path / "a.HEIC"]) is None
