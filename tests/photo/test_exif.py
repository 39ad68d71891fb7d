import struct

import numpy as np
import pytest
import tifffile
from metadata_blocks import Block, camera_exif
from PIL import Image

from mrda.photo import exif
from mrda.photo.files import FORMATS, Photo, read_photo, write_photo
from mrda.photo.ifd import IFDError


def values(block, tag, sub=None):
    """A tag's values as Pillow reads them."""
    tags = Image.Exif()
    tags.load(block)
    return (tags if sub is None else tags.get_ifd(sub)).get(tag)


@pytest.mark.parametrize("order", "<>")
def test_only_orientation_and_the_link_to_the_thumbnail_change(order):
    before = camera_exif(order, orientation=6)
    after = exif.upright(before)
    assert len(after) == len(before)
    changed = [place for place, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert len(changed) <= 1 + 4
    assert values(before, 0x0112) == 6
    assert values(after, 0x0112) == 1
    assert not exif.TagFile(after).directory(exif.TagFile(after).first).next
    assert exif.upright(after) == after


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("width", "height"), [(96, 64), (100_000, 3)])
def test_sizes_are_updated_where_they_are(order, width, height):
    before = exif.upright(camera_exif(order))
    after = exif.sized(before, width, height)
    assert (values(after, 0xA002, 0x8769), values(after, 0xA003, 0x8769)) == (width, height)
    assert len(after) == len(before)
    assert sum(old != new for old, new in zip(before, after, strict=True)) <= 4 * 6
    assert exif.sized(after, 24, 16) == exif.sized(before, 24, 16) or width > 65535
    block = Block(order)
    first = block.directory((0x010E, 2, "a cat"))
    struct.pack_into(order + "I", block.data, 4, first)
    assert exif.sized(bytes(block.data), width, height) == bytes(block.data)


@pytest.mark.parametrize("kind", [1, 2, 4, 7])
def test_an_orientation_of_any_type_becomes_1(kind):
    block = Block("<")
    first = block.directory((0x0112, kind, b"\6\0\0\0"[: 4 if kind == 4 else 1]), (0x0100, 4, 24), (0x0101, 4, 16))
    struct.pack_into("<I", block.data, 4, first)
    after = exif.sized(exif.upright(bytes(block.data)), 96, 64)
    assert exif.orientation(after) == 1
    assert (values(after, 0x0100), values(after, 0x0101)) == (96, 64)


def test_hostile_blocks_are_refused_or_changed_within_their_bounds():
    whole = camera_exif()
    random = np.random.default_rng(0)
    outcomes = set()
    for cut in range(len(whole)):
        try:
            outcomes.add(len(exif.sized(exif.upright(whole[:cut]), 7, 5)) == cut)
        except IFDError:
            outcomes.add(None)
    for _ in range(3000):
        block = bytearray(whole)
        for place in random.integers(0, len(block), 4):
            block[place] = random.choice([0, 1, 127, 128, 255])
        try:
            outcomes.add(len(exif.sized(exif.upright(bytes(block)), 7, 5)) == len(block))
        except IFDError:
            outcomes.add(None)
    assert outcomes == {True, None}


@pytest.mark.parametrize("block", [b"", b"II*\0", b"II*\0\x08\0\0\0", b"II+\0\x08\0\0\0" + bytes(8), b"JPEG" * 9])
def test_no_block_at_all(block):
    with pytest.raises(IFDError):
        exif.upright(block)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("order", "<>")
def test_the_block_in_the_file_is_the_cameras(tmp_path, format, order):
    before = camera_exif(order)
    pixels = np.random.default_rng(0).integers(0, 65536, (16, 24, 3), dtype=np.uint16)
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(tmp_path / "a.jpg", exif=exif.PREFIX + before)
    photo = read_photo(tmp_path / "a.jpg")
    path = tmp_path / f"b{FORMATS[format]}"
    large = pixels.repeat(2, 0).repeat(2, 1)
    notices = write_photo(path, [large[:5], large[5:]], 32, photo, format=format)
    assert not any("EXIF" in notice for notice in notices)
    content, expected = path.read_bytes(), exif.sized(exif.upright(before), 48, 32)
    if format == "tiff":  # the file begins with the block, but for where the first directory is
        assert content[:4] + content[8 : len(expected)] == expected[:4] + expected[8:]
    else:
        assert expected in content
    again = read_photo(path)
    assert values(again.exif, 0x013B) is not None
    assert "Jörg".encode() in again.exif
    if format in ("png", "tiff"):
        np.testing.assert_array_equal(again.pixels, large)


def test_a_tiff_of_overlapping_directories_and_values_costs_little(tmp_path):
    block = Block("<")
    entries = [(0x9000, 7, 2**20, 8)] * 3000
    listed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    inner = block.put(struct.pack("<H", len(entries)) + listed + bytes(4))
    first = block.directory(
        (256, 4, 1), (257, 4, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 1),
        (279, 4, 1), (0x8769, 4, inner), (0x010E, 2, "a cat"),
    )  # fmt: skip
    struct.pack_into("<I", block.data, 4, first)
    block.put(bytes(2**20))
    (tmp_path / "a.tif").write_bytes(block.data)
    photo = read_photo(tmp_path / "a.tif")
    assert photo.notices == ("damaged EXIF was left out",)
    assert photo.pixels.shape == (1, 1)


@pytest.mark.parametrize("order", "<>")
def test_the_block_of_an_avif_is_its_cameras(tmp_path, order):
    block = Block(order)
    first = block.directory((0x010F, 2, "Canon"), (0x013B, 2, "Jörg"))
    struct.pack_into(order + "I", block.data, 4, first)
    Image.new("RGB", (12, 8)).save(tmp_path / "a.avif", exif=bytes(block.data))
    assert read_photo(tmp_path / "a.avif").exif == bytes(block.data)


def test_tags_of_raw_files_do_not_make_a_raw_file_of_a_tiff(tmp_path):
    block = Block("<")
    first = block.directory((0x010F, 2, "Canon"), (50706, 1, b"\1\4\0\0"))
    struct.pack_into("<I", block.data, 4, first)
    pixels = np.zeros((8, 12, 3), np.uint8)
    write_photo(tmp_path / "a.tif", [pixels], 8, Photo(pixels, exif=bytes(block.data)), format="tiff")
    assert values(read_photo(tmp_path / "a.tif").exif, 0x010F) == "Canon"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_damaged_exif_is_left_out_and_said(tmp_path, name):
    block = Block("<")
    first = block.directory((0x010E, 2, "a cat"), (0x0112, 3, 6), (0x8769, 4, 100_000))
    struct.pack_into("<I", block.data, 4, first)
    Image.new("RGB", (12, 8)).save(
        tmp_path / name, exif=bytes(block.data) if name != "a.jpg" else exif.PREFIX + block.data
    )
    photo = read_photo(tmp_path / name)
    assert photo.notices == ("damaged EXIF was left out",)
    assert photo.exif is None
    assert photo.pixels.shape == (12, 8, 3)  # its orientation could be read


def test_descriptive_tags_of_a_tiff_become_exif(tmp_path):
    tags = Image.Exif()
    tags[0x010E], tags[0x8298] = "a cat", "me"
    Image.new("RGB", (12, 8)).save(tmp_path / "a.tif", exif=tags)
    photo = read_photo(tmp_path / "a.tif")
    assert photo.notices == ()
    assert (values(photo.exif, 0x010E), values(photo.exif, 0x8298), values(photo.exif, 0x0111)) == ("a cat", "me", None)
    for format in FORMATS:
        path = tmp_path / f"b{FORMATS[format]}"
        assert write_photo(path, [photo.pixels], 8, photo, format=format) == ()
        with Image.open(path) as image:
            assert image.getexif()[0x010E] == "a cat"
            assert image.size == (12, 8)


def test_what_a_program_wrote_of_its_pixels_layout_is_no_description(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 12, 3), np.uint8), photometric="rgb", software="scanner 1")
    assert values(read_photo(tmp_path / "a.tif").exif, 0x010E) is None
    assert values(read_photo(tmp_path / "a.tif").exif, 0x0131) == "scanner 1"


def test_a_bigtiff_has_no_place_for_the_block_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("mrda.photo.tiff_writer._MOST", 100)
    pixels = np.random.default_rng(0).integers(0, 256, (130, 24, 3), dtype=np.uint8)
    like = Photo(pixels, exif=exif.upright(camera_exif()), dpi=(300.0, 300.0))
    notices = write_photo(tmp_path / "a.tif", [pixels], 130, like, format="tiff")
    assert notices == ("EXIF was left out, because the TIFF is larger than 4 GB",)
    assert (tmp_path / "a.tif").read_bytes().startswith(b"II+\0")
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.dpi == (300.0, 300.0)


def test_a_maker_note_far_behind_is_moved_and_said(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    write_photo(tmp_path / "a.tif", [pixels], 16, Photo(pixels, exif=exif.upright(camera_exif())), format="tiff")
    assert read_photo(tmp_path / "a.tif").notices == ()  # it stays where it is
    content = bytearray((tmp_path / "a.tif").read_bytes())
    place = content.index(struct.pack("<HH", 0x927C, 7))
    note, size = struct.unpack_from("<I", content, place + 8)[0], struct.unpack_from("<I", content, place + 4)[0]
    struct.pack_into("<I", content, place + 8, len(content) + 100_000)
    (tmp_path / "b.tif").write_bytes(content + bytes(100_000) + content[note : note + size])
    photo = read_photo(tmp_path / "b.tif")
    assert photo.notices == ("the maker note was moved within the EXIF, so that some programs can't read it",)
    assert bytes(content[note : note + size]) in photo.exif
