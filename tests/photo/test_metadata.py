"""Metadata that survive, and what is said of the rest; ExifTool is the independent reader."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from metadata_blocks import camera_exif, exiftool, iptc, needs_exiftool, resource, segment, with_segments, xmp_packet
from PIL import Image, PngImagePlugin

from mrda.photo import photoshop
from mrda.photo.exif import PREFIX
from mrda.photo.files import FORMATS, Photo, read_photo, write_photo

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
GROUPS = ("IFD0", "ExifIFD", "GPS", "InteropIFD", "Canon", "XMP", "IPTC", "IFD1", "ExifTool:Warning")
STORAGE = {
    "ImageWidth", "ImageHeight", "BitsPerSample", "Compression", "PhotometricInterpretation", "StripOffsets",
    "SamplesPerPixel", "RowsPerStrip", "StripByteCounts", "XResolution", "YResolution", "PlanarConfiguration",
    "ResolutionUnit", "Predictor",
}  # fmt: skip


def camera_jpeg(folder, order="<"):
    """A photo with everything that a camera and a newspaper's editor write."""
    path = folder / "camera.jpg"
    packet = xmp_packet("tiff:Orientation = '6'", "<exif:PixelXDimension>24</exif:PixelXDimension>")
    Image.fromarray(PIXELS).save(path, exif=PREFIX + camera_exif(order), xmp=packet, comment=b"a comment")
    resources = resource(0x0404, iptc()) + resource(0x040C, bytes(30)) + resource(0x0421, b"\0\0\0\1")
    with_segments(path, segment(0xED, photoshop.PREFIX + resources))
    return path


def enlarged(photo, path, format):
    """The photo, twice as large, in a file; its notices."""
    large = photo.pixels.repeat(2, axis=0).repeat(2, axis=1)
    return write_photo(path, [large], len(large), photo, format=format)


def described(path):
    """Tags of a photo's description, as ExifTool reads them."""
    return {name: value for name, value in exiftool(path).items() if name.startswith(GROUPS)}


@needs_exiftool
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("format", FORMATS)
def test_exiftool_reads_the_same_before_and_after(tmp_path, format, order):
    source, target = camera_jpeg(tmp_path, order), tmp_path / f"large{FORMATS[format]}"
    photo = read_photo(source)
    enlarged(photo, target, format)
    before, after = described(source), described(target)
    gone = {name for name in before if name.startswith("IFD1:")} | {"XMP-tiff:Orientation"}
    if format == "webp":
        gone |= {name for name in before if name.startswith("IPTC:")}
    assert before.keys() - after.keys() == gone
    new = {name for name in after.keys() - before.keys() if not name.startswith("IPTC2:")}
    assert {name.split(":")[1] for name in new} <= (STORAGE if format == "tiff" else set())
    changed = {name: after[name] for name in before.keys() & after.keys() if before[name] != after[name]}
    assert changed == {
        "IFD0:Orientation": 1,
        "ExifIFD:ExifImageWidth": 32,
        "ExifIFD:ExifImageHeight": 48,
        "InteropIFD:RelatedImageWidth": 32,
        "InteropIFD:RelatedImageHeight": 48,
        "XMP-exif:ExifImageWidth": 32,
    }
    assert after["IFD0:Artist"] == "Jörg"
    assert after["ExifIFD:UserComment"] == "ein Kätzchen"
    assert after["Canon:OwnerName"] == "the owner of this camera"


@needs_exiftool
@pytest.mark.parametrize("between", FORMATS)
@pytest.mark.parametrize("format", FORMATS)
def test_exif_survives_any_two_conversions(tmp_path, between, format):
    source, middle, target = camera_jpeg(tmp_path), tmp_path / f"m{FORMATS[between]}", tmp_path / f"t{FORMATS[format]}"
    enlarged(read_photo(source), middle, between)
    enlarged(read_photo(middle), target, format)
    before, after = described(source), described(target)
    groups = ("ExifIFD:", "GPS:", "Canon:", "InteropIFD:", "XMP-dc", "XMP-xmp", "IFD0:")
    kept = {name for name in before if name.startswith(groups)} - {"IFD0:Orientation"}
    assert kept <= after.keys()
    assert {name for name in kept if before[name] != after[name]} == {
        "ExifIFD:ExifImageWidth",
        "ExifIFD:ExifImageHeight",
        "InteropIFD:RelatedImageWidth",
        "InteropIFD:RelatedImageHeight",
    }
    if "webp" not in (between, format):
        assert (after["IPTC:ObjectName"], after["IPTC:City"]) == ("Kätzchen", "Köln")


@pytest.mark.parametrize("format", FORMATS)
def test_iptc_survives_where_there_is_a_place_for_it(tmp_path, format):
    photo = read_photo(camera_jpeg(tmp_path))
    assert photo.photoshop == resource(0x0404, iptc()) + resource(0x0421, b"\0\0\0\1")  # without the thumbnail
    path = tmp_path / f"b{FORMATS[format]}"
    notices = enlarged(photo, path, format)
    told = "Photoshop's block with IPTC was left out, because WebP has no place for it"
    assert (told in notices) == (format == "webp")
    assert read_photo(path).photoshop == (None if format == "webp" else photo.photoshop)


def test_a_tiffs_iptc_survives(tmp_path):
    blocks = [(33723, 7, len(iptc()), iptc(), True)]
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", extratags=blocks, metadata=None)
    photo = read_photo(tmp_path / "a.tif")
    assert photoshop.iptc(photo.photoshop) == iptc()
    for format in ("tiff", "jpg", "png"):
        path = tmp_path / f"b{FORMATS[format]}"
        assert enlarged(photo, path, format) == ()
        assert photoshop.iptc(read_photo(path).photoshop) == iptc()
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert bytes(file.pages[0].tags[33723].value) == iptc()


def test_large_resources_fill_several_segments(tmp_path):
    resources = resource(0x0404, iptc()) + resource(0x0FA0, bytes(200_000))
    write_photo(tmp_path / "a.jpg", [PIXELS], 16, Photo(PIXELS, photoshop=resources), format="jpg")
    assert read_photo(tmp_path / "a.jpg").photoshop == resources


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_damaged_resources_are_kept_up_to_the_damage(cut):
    whole = resource(0x0404, iptc()) + resource(0x0421, bytes(4))
    assert photoshop.kept(whole[: len(whole) - cut]) in (whole, whole[: len(resource(0x0404, iptc()))], b"")


def png_with(path, *chunks, behind=False):
    """A PNG with further chunks, before or behind its pixels."""
    Image.fromarray(PIXELS).save(path)
    whole = path.read_bytes()
    added = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    place = len(whole) - 12 if behind else 33
    path.write_bytes(whole[:place] + added + whole[place:])
    return path


TEXT = (
    (b"tEXt", b"Author\0a cat"),
    (b"tEXt", b"Comment\0by J\xf6rg"),
    (b"tEXt", b"photoshop\0a word"),
    (b"zTXt", b"Title\0\0" + zlib.compress(b"a cat")),
    (b"iTXt", b"Title\0\0\0de\0Titel\0" + "Kätzchen".encode()),
    (b"tEXt", b"parameters\0Steps: 20, Sampler: Euler"),
)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_a_pngs_text_survives_in_png_and_is_said_elsewhere(tmp_path, format, behind):
    photo = read_photo(png_with(tmp_path / "a.png", *TEXT, behind=behind))
    assert photo.text == TEXT
    path = tmp_path / f"b{FORMATS[format]}"
    notices = enlarged(photo, path, format)
    if format != "png":
        assert len(notices) == 1
        assert notices[0].startswith("the PNG's text was left out, because")
        return
    assert notices == ()
    assert read_photo(path).text == TEXT
    with Image.open(path) as image:
        assert image.text["parameters"] == "Steps: 20, Sampler: Euler"
        assert image.text["Title"] == "Kätzchen"


@pytest.mark.parametrize("kind", ["exif", "APP1"])
@pytest.mark.parametrize("packed", [False, True])
def test_profiles_in_text_become_what_they_are(tmp_path, kind, packed):
    def chunk(kind, content):
        text = f"\n{kind}\n{len(content):8}\n{content.hex()}\n".encode()
        keyword = f"Raw profile type {kind}\0".encode()
        return (b"zTXt", keyword + b"\0" + zlib.compress(text)) if packed else (b"tEXt", keyword + text)

    chunks = (chunk(kind, PREFIX + camera_exif()), chunk("iptc", iptc()))
    photo = read_photo(png_with(tmp_path / "a.png", *chunks))
    assert photo.text == ()
    assert "Jörg".encode() in photo.exif
    assert photoshop.iptc(photo.photoshop) == iptc()
    if kind == "exif":
        assert photo.pixels.shape == (24, 16, 3)  # turned


@pytest.mark.parametrize("format", FORMATS)
def test_comments_survive_in_jpeg_and_png_and_are_said_elsewhere(tmp_path, format):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", comment=b"a cat")
    with_segments(tmp_path / "a.jpg", segment(0xFE, "Kätzchen".encode()))
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.comments == ("Kätzchen".encode(), b"a cat")
    path = tmp_path / f"b{FORMATS[format]}"
    notices = enlarged(photo, path, format)
    if format in ("jpg", "png"):
        assert notices == ()
    else:
        assert notices == (f"the comment was left out, because {format} has no comments",)
    if format == "jpg":
        assert read_photo(path).comments == photo.comments
    if format == "png":
        assert [name for name, _ in read_photo(path).text] == [b"iTXt", b"tEXt"]


COLOUR = {
    "gamma": ((b"gAMA", struct.pack(">I", 100000)),),
    "chromaticities": ((b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),),
    "hdr": ((b"cICP", bytes((9, 16, 0, 1))),),
    "srgb": ((b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0")),
}


@pytest.mark.parametrize("kind", COLOUR)
@pytest.mark.parametrize("format", FORMATS)
def test_a_pngs_colour_space_is_kept_or_said(tmp_path, format, kind):
    photo = read_photo(png_with(tmp_path / "a.png", *COLOUR[kind]))
    assert photo.notices == ()
    path = tmp_path / f"b{FORMATS[format]}"
    notices = enlarged(photo, path, format)
    if format == "png":
        assert notices == ()
        assert read_photo(path).colour == COLOUR[kind]
        Image.open(path).load()
    elif kind == "srgb":
        assert notices == ()
    else:
        assert len(notices) == 1
        assert ("colour space (cICP)" if kind == "hdr" else "gamma and chromaticities") in notices[0]


@pytest.mark.parametrize("lossless", [None, False, True])
@pytest.mark.parametrize("source", [False, True])
def test_a_lossless_webp_stays_lossless(tmp_path, source, lossless):
    Image.fromarray(PIXELS).save(tmp_path / "a.webp", lossless=source)
    photo = read_photo(tmp_path / "a.webp")
    assert photo.lossless == source
    assert write_photo(tmp_path / "b.webp", [photo.pixels], 16, photo, format="webp", lossless=lossless) == ()
    again = read_photo(tmp_path / "b.webp")
    assert again.lossless == (source if lossless is None else lossless)
    assert np.array_equal(again.pixels, photo.pixels) == again.lossless


def test_the_first_frame_of_an_animated_webp_says_if_it_is_lossless(tmp_path):
    for lossless in (False, True):
        frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
        frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=lossless)
        photo = read_photo(tmp_path / "a.webp")
        assert photo.lossless == lossless
        assert photo.notices == ("only the first of 2 pages or frames was kept",)


def test_claims_of_a_jpeg_that_go_are_said_once(tmp_path):
    path = tmp_path / "a.jpg"
    packet = xmp_packet('hdrgm:Version="1.0" xmpNote:HasExtendedXMP="0123"', "")
    Image.fromarray(PIXELS).save(path, xmp=packet)
    extended = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40))
    with_segments(path, segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4)), extended, extended)
    photo = read_photo(path)
    assert photo.notices == ("left out: the HDR gain map, extended XMP",)
    assert enlarged(photo, tmp_path / "b.jpg", "jpg") == ()
    content = (tmp_path / "b.jpg").read_bytes()
    assert b"hdrgm:Version" not in content
    assert b"21496" not in content
    assert b"HasExtended" not in content
    assert b"xmp/extension" not in content


def test_a_pair_of_pictures_in_a_jpeg_becomes_the_first(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.fromarray(255 - PIXELS)])
    photo = read_photo(tmp_path / "a.mpo")
    assert photo.notices == ("only the first of 2 pages or frames was kept",)
    enlarged(photo, tmp_path / "b.jpg", "jpg")
    assert b"MPF\0" not in (tmp_path / "b.jpg").read_bytes()


def test_pngs_keep_xmp_that_pillow_reads(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp_packet().decode())
    Image.fromarray(PIXELS).save(tmp_path / "a.png", pnginfo=info)
    photo = read_photo(tmp_path / "a.png")
    assert photo.text == ()
    assert photo.xmp == xmp_packet()
