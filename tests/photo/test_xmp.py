import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tifffile
from metadata_blocks import SCHEMA, xmp_packet
from PIL import Image, PngImagePlugin

from mrda.photo import xmp
from mrda.photo.files import read_photo

TIFF = SCHEMA["tiff"]
ORIENTATIONS = {
    "double quotes": xmp_packet('tiff:Orientation="6"'),
    "single quotes": xmp_packet("tiff:Orientation='6'"),
    "spaces": xmp_packet("tiff:Orientation\n = '6'"),
    "element": xmp_packet(elements="<tiff:Orientation>6</tiff:Orientation>"),
    "element with spaces": xmp_packet(elements="<tiff:Orientation >\n6 </tiff:Orientation >"),
    "element with attributes": xmp_packet(elements='<tiff:Orientation rdf:datatype="int">6</tiff:Orientation>'),
    "another prefix": xmp_packet(f'xmlns:t="{TIFF}" t:Orientation="6"'),
    "another prefix, element": xmp_packet(elements=f"<t:Orientation xmlns:t='{TIFF}'>6</t:Orientation>"),
    "utf-16": xmp_packet("tiff:Orientation='6'").decode().encode("utf-16-le"),
    "utf-16, big-endian": xmp_packet("tiff:Orientation='6'").decode().encode("utf-16-be"),
    "utf-16, byte order mark": b"\xfe\xff" + xmp_packet("tiff:Orientation='6'").decode().encode("utf-16-be"),
    "utf-32": xmp_packet("tiff:Orientation='6'").decode().encode("utf-32"),
    "utf-32, big-endian": xmp_packet("tiff:Orientation='6'").decode().encode("utf-32-be"),
    "reference": xmp_packet('tiff:Orientation="&#54;"'),
    "comment": xmp_packet(elements="<tiff:Orientation><!-- upright? -->6</tiff:Orientation>"),
    "characters": xmp_packet(elements="<tiff:Orientation><![CDATA[6]]></tiff:Orientation>"),
    "qualified": xmp_packet(
        elements="<tiff:Orientation rdf:parseType='Resource'><rdf:value>6</rdf:value></tiff:Orientation>"
    ),
    "undeclared": b"<x:xmpmeta><rdf:Description tiff:Orientation='6' dc:title='K\xc3\xa4tzchen'/></x:xmpmeta>",
}


def encoding_of(name):
    if not name.startswith("utf"):
        return "utf-8"
    return "utf-32" if name == "utf-32" else f"{name[:6]}-{'le' if name == 'utf-16' else 'be'}"


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_an_orientation_in_any_syntax_is_read_and_removed(name):
    packet = ORIENTATIONS[name]
    assert xmp.orientation(packet) == 6
    kept, lost = xmp.without_falsehoods(packet)
    assert lost == ()
    assert xmp.orientation(kept) is None
    text = kept.decode(encoding_of(name))
    assert "Kätzchen" in text
    assert "Orientation" not in text
    if name != "undeclared":
        ElementTree.fromstring(text.split("?>", 1)[1].split("<?xpacket")[0])


def test_what_is_true_is_kept_to_the_byte():
    packet = xmp_packet('dc:rights="tiff:Orientation"', "<dc:format>image/jpeg</dc:format>")
    assert xmp.without_falsehoods(packet) == (packet, ())
    assert xmp.sized(packet, 5, 7, (2, 2)) == packet


GAIN_MAP, VIDEO = "the HDR gain map", "the video of a motion photo"
CLAIMS = {
    "gain map": ('hdrgm:Version="1.0" hdrgm:GainMapMax="2.5"', "", GAIN_MAP),
    "gain map, elements": ("", "<hdrgm:GainMapMax><rdf:Seq><rdf:li>2</rdf:li></rdf:Seq></hdrgm:GainMapMax>", GAIN_MAP),
    "motion photo": ("GCamera:MotionPhoto='1' GCamera:MotionPhotoPresentationTimestampUs='5'", "", VIDEO),
    "another maker's": ('OpCamera:MotionPhotoOwner="oplus" OpCamera:VideoLength="4022143"', "", VIDEO),
    "micro video": ('GCamera:MicroVideo="1" GCamera:MicroVideoOffset="4022143"', "", VIDEO),
    "extended": ('xmpNote:HasExtendedXMP="0123456789ABCDEF"', "", "extended XMP"),
    "container": (
        "",
        '<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="video/mp4" '
        'Item:Semantic="MotionPhoto"/></rdf:li></rdf:Seq></Container:Directory>',
        None,
    ),
    "thumbnail": ("", "<xmp:Thumbnails><rdf:Alt/></xmp:Thumbnails>", None),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_that_are_no_longer_true_go(name):
    attributes, elements, subject = CLAIMS[name]
    kept, lost = xmp.without_falsehoods(xmp_packet(attributes, elements))
    assert lost == (() if subject is None else (subject,))
    text = kept.decode()
    root = ElementTree.fromstring(text.split("?>", 1)[1].split("<?xpacket")[0])
    names = {name for node in root.iter() for name in (node.tag, *node.attrib)}
    assert not [
        name
        for name in names
        if any(SCHEMA[key] in name for key in ("hdrgm", "GCamera", "OpCamera", "xmpNote", "Container"))
    ]
    assert f"{{{SCHEMA['xmp']}}}Rating" in names
    assert "Thumbnails" not in text


def test_sizes_are_updated_and_those_of_panoramas_scaled():
    packet = xmp_packet(
        "tiff:ImageWidth='24' GPano:FullPanoWidthPixels='48' GPano:CroppedAreaTopPixels='3'",
        "<exif:PixelYDimension>16</exif:PixelYDimension>",
    )
    text = xmp.sized(packet, 96, 64, (4, 4)).decode()
    assert "tiff:ImageWidth='96'" in text
    assert "<exif:PixelYDimension>64</exif:PixelYDimension>" in text
    assert "GPano:FullPanoWidthPixels='192'" in text
    assert "GPano:CroppedAreaTopPixels='12'" in text


def test_hostile_packets_end_soon():
    for piece in (b"<tiff:Orientation>", b"<a tiff:Orientation='", b'<"', b" tiff:Orientation=", b"<tiff:Orientation "):
        packet = xmp_packet().split(b"<dc:title>")[0] + piece * (2**20 // len(piece))
        xmp.without_falsehoods(packet)
        xmp.orientation(packet)
        xmp.sized(packet, 3, 4, (1, 1))
    for element in (
        b"<dc:format" + b" " * 2**20 + b"/>",
        b"<tiff:Orientation>" + b"<!--" * 2**18 + b"</tiff:Orientation>",
    ):
        packet = xmp_packet("tiff:Orientation='6'").replace(b"<dc:title>", element + b"<dc:title>", 1)
        xmp.without_falsehoods(packet)
        assert xmp.orientation(packet) == 6


@pytest.mark.parametrize("name", ["double quotes", "single quotes", "element"])
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_where_there_is_no_exif_xmp_turns_the_photo(tmp_path, name, suffix):
    if suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", ORIENTATIONS[name].decode())
        Image.new("RGB", (12, 8)).save(tmp_path / "a.png", pnginfo=info)
    else:
        Image.new("RGB", (12, 8)).save(tmp_path / f"a{suffix}", xmp=ORIENTATIONS[name])
    photo = read_photo(tmp_path / f"a{suffix}")
    assert photo.pixels.shape == (12, 8, 3)
    assert xmp.orientation(photo.xmp) is None
    assert "Kätzchen" in photo.xmp.decode()


@pytest.mark.parametrize("name", ["double quotes", "single quotes", "utf-32"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("tag", "shape"), [(None, (12, 8, 3)), (1, (8, 12, 3)), (6, (12, 8, 3))])
def test_where_a_tiff_has_no_orientation_xmp_turns_it(tmp_path, name, dtype, tag, shape):
    packet = ORIENTATIONS[name]
    tags = [(700, 1, len(packet), packet, True), *([(274, 3, 1, tag, True)] if tag else [])]
    pixels = np.arange(8 * 12 * 3, dtype=dtype).reshape(8, 12, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None, extratags=tags)
    photo = read_photo(tmp_path / "a.tif")
    assert photo.pixels.shape == shape
    np.testing.assert_array_equal(photo.pixels, pixels if tag == 1 else np.rot90(pixels, -1))
    assert xmp.orientation(photo.xmp) is None


def test_the_exif_counts_before_the_xmp(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 1
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(
        tmp_path / "a.jpg", exif=tags, xmp=ORIENTATIONS["double quotes"]
    )
    assert read_photo(tmp_path / "a.jpg").pixels.shape == (8, 12, 3)
