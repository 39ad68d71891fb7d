"""Levels mean what the file says: right, or refused with a sentence. tifffile and imagecodecs write the files."""

import io
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from heic_photos import EIGHT_BITS, TEN_BITS
from PIL import Image

from mrda.photo.files import FORMATS, read_photo, write_photo
from mrda.photo.images import ImageError, read_image, read_rgb, read_size, to_eight_bits

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 65536, (16, 24, 4), dtype=np.uint16)
SHALLOW = (DEEP >> 8).astype(np.uint8)


def stretched(levels, bits):
    """The nearest levels of 8 or 16 bits, in floating point."""
    white, dtype = (255, np.uint8) if bits <= 8 else (65535, np.uint16)
    return np.floor(levels.astype(np.float64) * white / (2**bits - 1) + 0.5).astype(dtype)


def check(path, expected):
    """Every reader returns the levels; there is nothing to say of bits."""
    photo = read_photo(path)
    assert photo.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(photo.pixels, expected)
    assert not [notice for notice in photo.notices if "bit" in notice]
    rgb = read_rgb(path)
    assert rgb.dtype == expected.dtype
    gray = expected if expected.ndim == 2 else expected[..., 0]
    np.testing.assert_array_equal(rgb[..., 0], gray)
    assert read_size(path) == (expected.shape[1], expected.shape[0])
    image = read_image(path)
    levels = expected if expected.ndim == 2 else to_eight_bits(expected)
    np.testing.assert_array_equal(np.asarray(image), levels)


def tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels, metadata=None, **options)
    return path


@pytest.mark.parametrize("bits", [*range(2, 8), *range(9, 16)])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_gray_tiffs_of_any_bits(tmp_path, bits, photometric):
    levels = DEEP[..., 0] >> (16 - bits)
    levels = levels.astype(np.uint8) if bits <= 8 else levels
    tiff(tmp_path / "a.tif", levels, photometric=photometric, bitspersample=bits)
    expected = stretched(levels, bits)
    check(tmp_path / "a.tif", np.iinfo(expected.dtype).max - expected if photometric == "miniswhite" else expected)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_colour_tiffs_of_any_bits(tmp_path, bits):
    levels = DEEP[..., :3] >> (16 - bits)
    check(tiff(tmp_path / "a.tif", levels, photometric="rgb", bitspersample=bits), stretched(levels, bits))


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes"])
@pytest.mark.parametrize("order", "<>")
def test_deep_colour_tiffs_in_any_layout(tmp_path, compression, layout, order):
    pixels, options = DEEP[..., :3], {"compression": compression, "byteorder": order, "photometric": "rgb"}
    if compression in ("zlib", "lzw", "zstd"):
        options["predictor"] = True
    if layout == "tiles":
        options["tile"] = (16, 16)
    if layout == "planes":
        options["planarconfig"] = "separate"
    stored = pixels.transpose(2, 0, 1) if layout == "planes" else pixels
    check(tiff(tmp_path / "a.tif", stored, **options), pixels)


def changed_tag(path, tag, kind, value):
    """Set an entry of a little-endian TIFF's first directory to a single value."""
    content = bytearray(path.read_bytes())
    (place,) = struct.unpack_from("<I", content, 4)
    for entry in range(place + 2, place + 2 + 12 * struct.unpack_from("<H", content, place)[0], 12):
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<HHII", content, entry, tag, kind, 1, value)
            path.write_bytes(content)
            return path
    raise AssertionError(f"there is no tag {tag}")


def test_one_number_of_bits_stands_for_all_channels(tmp_path):
    path = tiff(tmp_path / "a.tif", DEEP[..., :3], photometric="rgb")
    check(changed_tag(path, 258, 3, 16), DEEP[..., :3])


@pytest.mark.parametrize("pixels", [DEEP[..., :2], SHALLOW[..., :2]], ids=["16", "8"])
@pytest.mark.parametrize("planes", [False, True])
def test_gray_tiffs_with_transparency(tmp_path, pixels, planes):
    options = {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
    if planes:
        tiff(tmp_path / "a.tif", pixels.transpose(2, 0, 1), planarconfig="separate", **options)
    else:
        tiff(tmp_path / "a.tif", pixels, **options)
    check(tmp_path / "a.tif", pixels)


def test_alpha_is_not_inverted_with_gray_whose_0_is_white(tmp_path):
    tiff(tmp_path / "a.tif", DEEP[..., :2], photometric="miniswhite", extrasamples=["unassalpha"])
    check(tmp_path / "a.tif", np.dstack([65535 - DEEP[..., 0], DEEP[..., 1]]))
    tiff(tmp_path / "a.tif", SHALLOW[..., :2], photometric="miniswhite", extrasamples=["unassalpha"])
    check(tmp_path / "a.tif", np.dstack([255 - SHALLOW[..., 0], SHALLOW[..., 1]]))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_without_a_white_are_refused(tmp_path, dtype, channels):
    pixels = np.zeros((16, 24, 3), dtype)[..., :channels].squeeze()
    path = tiff(tmp_path / "a.tif", pixels, photometric="rgb" if channels == 3 else "minisblack")
    with pytest.raises(ImageError, match=r"a\.tif: its pixels are .* convert it to") as caught:
        read_photo(path)
    assert str(caught.value).count(str(path)) == 1
    with pytest.raises(ImageError):
        read_rgb(path)


def test_colours_that_are_not_rgb(tmp_path):
    inks = np.zeros((16, 24, 4), np.uint8)
    inks[...] = (0, 255, 255, 0)
    for pixels in (inks, inks.astype(np.uint16) * 257):
        photo = read_photo(tiff(tmp_path / "a.tif", pixels, photometric="separated"))
        np.testing.assert_array_equal(photo.pixels[0, 0], (255, 0, 0))
        assert photo.notices[0] == "CMYK became RGB"
        assert len(photo.notices) == (1 if pixels.dtype == np.uint8 else 2)
    lab = np.zeros((16, 24, 3), np.uint8)
    lab[...] = (137, 0, 0)
    photo = read_photo(tiff(tmp_path / "a.tif", lab, photometric="cielab"))
    np.testing.assert_allclose(photo.pixels[0, 0], 128, atol=1)
    for pixels, photometric in ((lab, "icclab"), (lab.astype(np.uint16), "cielab"), (lab.astype(np.uint16), "ycbcr")):
        with pytest.raises(ImageError, match=r"save it as RGB"):
            read_photo(tiff(tmp_path / "a.tif", pixels, photometric=photometric))
    luma = np.zeros((16, 24, 3), np.uint8)
    luma[...] = (120, 90, 200)
    with pytest.raises(ImageError, match="stores YCbCr without compression"):
        read_photo(tiff(tmp_path / "a.tif", luma, photometric="ycbcr"))
    photo = read_photo(tiff(tmp_path / "a.tif", luma, photometric="ycbcr", compression="zlib"))
    np.testing.assert_allclose(photo.pixels[0, 0], (221, 82, 53), atol=1)  # ITU-R BT.601


@pytest.mark.parametrize("white", [255, 65535])
def test_palettes_of_tiffs_have_8_or_16_bits(tmp_path, white):
    colours = RANDOM.integers(0, 256, (3, 256)) * (white // 255)
    tiff(tmp_path / "a.tif", SHALLOW[..., 0], photometric="palette", colormap=colours.astype(np.uint16))
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, (colours.T // (white // 255))[SHALLOW[..., 0]])


def test_channels_that_are_no_colours_are_said_to_be_left_out(tmp_path):
    five = np.dstack([DEEP, DEEP[..., :1]])
    tiff(tmp_path / "a.tif", five, photometric="rgb", extrasamples=["unassalpha", "unspecified"])
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, DEEP)
    assert photo.notices == ("left out: 1 further channel, which is neither colour nor alpha",)


def test_thumbnails_and_masks_are_never_the_photo(tmp_path):
    small, photo, mask = SHALLOW[:8, :8, :3], SHALLOW[..., :3], SHALLOW[..., 0] > 9
    with tifffile.TiffWriter(tmp_path / "sub.tif") as file:
        file.write(small, photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        file.write(photo, photometric="rgb", subfiletype=0, metadata=None)
    with tifffile.TiffWriter(tmp_path / "unsaid.tif") as file:
        file.write(small, photometric="rgb", subifds=1, metadata=None)
        file.write(photo, photometric="rgb", metadata=None)
    with tifffile.TiffWriter(tmp_path / "page.tif") as file:
        file.write(small, photometric="rgb", subfiletype=1, metadata=None)
        file.write(photo, photometric="rgb", metadata=None)
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(photo, photometric="rgb", metadata=None)
        file.write(mask, photometric="mask", subfiletype=4, metadata=None)
        file.write(small, photometric="rgb", subfiletype=1, metadata=None)
    for name in ("sub", "unsaid", "page", "mask"):
        check(tmp_path / f"{name}.tif", photo)
        assert read_photo(tmp_path / f"{name}.tif").notices == ()
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        file.write(photo, photometric="rgb", metadata=None)
        file.write(photo, photometric="rgb", metadata=None)
    assert read_photo(tmp_path / "pages.tif").notices == ("only the first of 2 pages or frames was kept",)


def test_raw_files_are_refused(tmp_path):
    sensor = DEEP[..., 0]
    with tifffile.TiffWriter(tmp_path / "a.nef") as file:
        file.write(SHALLOW[:8, :8, :3], photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        file.write(sensor, photometric="cfa", subfiletype=0, metadata=None)
    tiff(tmp_path / "b.dng", SHALLOW[..., :3], photometric="rgb", extratags=[(50706, 1, 4, b"\1\4\0\0", True)])
    tiff(tmp_path / "c.dng", DEEP[..., :3], photometric="linear_raw")
    whole = tiff(tmp_path / "d.cr2", SHALLOW[..., :3], photometric="rgb").read_bytes()
    (tmp_path / "d.cr2").write_bytes(whole[:8] + b"CR" + whole[10:])
    for name in ("a.nef", "b.dng", "c.dng", "d.cr2"):
        with pytest.raises(ImageError, match=rf"{name}: it is a camera's raw file: develop it"):
            read_rgb(tmp_path / name)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(levels, bits, colour_type, *chunks):
    """A PNG; levels (H, W) or (H, W, C)."""
    rows = levels.reshape(len(levels), -1)
    if bits == 16:
        rows = rows.astype(">u2")
    elif bits < 8:
        parts = rows.reshape(len(rows), -1, 8 // bits).astype(int) << np.arange(8 - bits, -1, -bits)
        rows = parts.sum(axis=2).astype(np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", levels.shape[1], len(levels), bits, colour_type, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_pngs_with_a_transparent_level(tmp_path, bits):
    levels = (DEEP[..., 0] >> (16 - bits)).astype(np.uint16 if bits == 16 else np.uint8)
    key = int(levels[0, 0])
    expected = stretched(levels, bits)
    (tmp_path / "a.png").write_bytes(png(levels, bits, 0))
    check(tmp_path / "a.png", expected)
    (tmp_path / "a.png").write_bytes(png(levels, bits, 0, chunk(b"tRNS", struct.pack(">H", key))))
    alpha = np.where(levels == key, 0, np.iinfo(expected.dtype).max).astype(expected.dtype)
    check(tmp_path / "a.png", np.dstack([expected, alpha]))


@pytest.mark.parametrize("bits", [8, 16])
def test_colour_pngs_with_a_transparent_colour(tmp_path, bits):
    levels = DEEP[..., :3] if bits == 16 else SHALLOW[..., :3]
    (tmp_path / "a.png").write_bytes(png(levels, bits, 2, chunk(b"tRNS", levels[0, 0].astype(">u2").tobytes())))
    alpha = np.where((levels == levels[0, 0]).all(axis=2), 0, np.iinfo(levels.dtype).max).astype(levels.dtype)
    check(tmp_path / "a.png", np.dstack([levels, alpha]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_with_transparency(tmp_path, bits):
    indices = SHALLOW[..., 0] >> (8 - bits)
    colours = RANDOM.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    alpha = np.full(2**bits, 255, np.uint8)
    alpha[:2] = (0, 77)
    chunks = chunk(b"PLTE", colours.tobytes()), chunk(b"tRNS", bytes((0, 77)))
    (tmp_path / "a.png").write_bytes(png(indices, bits, 3, *chunks))
    check(tmp_path / "a.png", np.c_[colours, alpha][indices])


@pytest.mark.parametrize("most", [1, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6", b"P7"])
def test_netpbm_with_any_greatest_level(tmp_path, kind, most):
    channels = 3 if kind in (b"P3", b"P6", b"P7") else 1
    levels = (DEEP[..., :channels].astype(int) % (most + 1)).astype(np.uint16)
    if kind in (b"P2", b"P3"):
        body = b"\n".join(b" ".join(b"%d" % level for level in row.ravel()) for row in levels)
    else:
        body = levels.astype(">u2" if most > 255 else np.uint8).tobytes()
    head = kind + b"\n# made by a test\n24 16\n%d\n" % most
    if kind == b"P7":
        head = b"P7\nWIDTH 24\nHEIGHT 16\nDEPTH 3\nMAXVAL %d\nTUPLTYPE RGB\nENDHDR\n" % most
    (tmp_path / "a.pnm").write_bytes(head + body)
    white, dtype = (255, np.uint8) if most < 256 else (65535, np.uint16)
    expected = np.floor(levels.astype(float) * white / most + 0.5).astype(dtype)
    pixels = read_photo(tmp_path / "a.pnm").pixels
    assert pixels.dtype == dtype
    # Pillow, which reads those of 8 bits, may round the other way.
    tolerance = 1 if most < 256 else 0
    np.testing.assert_allclose(pixels.astype(int), expected.squeeze().astype(int), atol=tolerance)
    (tmp_path / "a.pnm").write_bytes((head + body)[:-40])
    with pytest.raises(ImageError, match=r"a\.pnm"):
        read_rgb(tmp_path / "a.pnm")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sgi_of_16_bits(tmp_path, packed, channels):
    pixels = DEEP[..., :channels]
    planes = pixels.transpose(2, 0, 1)[:, ::-1].astype(">u2")
    header = struct.pack(">HBBHHHHII", 0x01DA, packed, 2, 3, 24, 16, channels, 0, 65535).ljust(512, b"\0")
    if packed:
        rows = [struct.pack(">H", 0x80 | 24) + row.tobytes() + b"\0\0" for row in planes.reshape(-1, 24)]
        rows[0] = struct.pack(">HH", 24, 7) + b"\0\0"  # one level 24 times
        pixels = pixels.copy()
        pixels[-1, :, 0] = 7
        starts = 512 + 8 * len(rows) + np.cumsum([0, *map(len, rows[:-1])])
        body = starts.astype(">u4").tobytes() + np.array([*map(len, rows)], ">u4").tobytes() + b"".join(rows)
    else:
        body = planes.tobytes()
    (tmp_path / "a.sgi").write_bytes(header + body)
    check(tmp_path / "a.sgi", pixels.squeeze())
    (tmp_path / "a.sgi").write_bytes((header + body)[:-50])
    with pytest.raises(ImageError, match=r"a\.sgi"):
        read_photo(tmp_path / "a.sgi")


@pytest.mark.parametrize("bits", [4, 8, 10, 12, 16])
@pytest.mark.parametrize("container", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_jpeg2000_of_any_bits(tmp_path, bits, container, channels):
    levels = (DEEP[..., :channels] >> (16 - bits)).squeeze()
    levels = levels.astype(np.uint8) if bits <= 8 else levels
    path = tmp_path / f"a.{container}"
    path.write_bytes(
        imagecodecs.jpeg2k_encode(levels, bitspersample=bits, level=0, codecformat=container, reversible=True)
    )
    check(path, stretched(levels, bits))


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_avif_of_any_bits(tmp_path, bits, channels):
    levels = np.full((16, 24, channels), 30000 >> (16 - bits), np.uint16 if bits > 8 else np.uint8).squeeze()
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(levels, bitspersample=bits, level=100))
    pixels = read_photo(tmp_path / "a.avif").pixels
    assert pixels.dtype == (np.uint16 if bits > 8 else np.uint8)
    white = np.iinfo(pixels.dtype).max
    np.testing.assert_allclose(pixels[..., 0] / white, 30000 / 65535, atol=1.5 / 2**bits)


@pytest.mark.parametrize(("transfer", "codes"), [(13, None), (16, bytes((9, 16, 0, 1)))])
def test_the_colour_space_of_an_avif_is_kept_in_png_and_said_elsewhere(tmp_path, transfer, codes):
    primaries = 1 if codes is None else 9  # of BT.709 and BT.2020
    content = imagecodecs.avif_encode(
        DEEP[..., :3] >> 6, bitspersample=10, level=100, primaries=primaries, transfer=transfer, matrix=primaries
    )
    (tmp_path / "a.avif").write_bytes(content)
    photo = read_photo(tmp_path / "a.avif")
    assert photo.colour == (() if codes is None else ((b"cICP", codes),))
    assert write_photo(tmp_path / "b.png", [photo.pixels], 16, photo, format="png") == ()
    assert (b"cICP" in (tmp_path / "b.png").read_bytes()) == (codes is not None)
    said = write_photo(tmp_path / "b.jpg", [photo.pixels], 16, photo, format="jpg")
    assert any("colour space (cICP)" in notice for notice in said) == (codes is not None)


def test_without_imagecodecs_what_is_lost_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(DEEP[..., :3], 16, 2))
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(DEEP[..., :3] >> 6, bitspersample=10, level=100))
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(DEEP[..., :3], level=0))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for name, bits in (("a.png", 16), ("a.avif", 10), ("a.jp2", 16)):
        photo = read_photo(tmp_path / name)
        assert photo.pixels.dtype == np.uint8
        said = f"{bits}-bit colours were reduced to 8 bits: `pip install './mrda[formats]'` keeps them"
        assert photo.notices == (said,)


@pytest.mark.parametrize("bits", [4, 10, 12, 16])
def test_without_imagecodecs_gray_jpeg2000_has_its_brightness(tmp_path, monkeypatch, bits):
    levels = np.full((16, 24), 2**bits - 1, np.uint16 if bits > 8 else np.uint8)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(levels, bitspersample=bits, level=0))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    pixels = read_photo(tmp_path / "a.jp2").pixels
    np.testing.assert_array_equal(pixels, np.iinfo(pixels.dtype).max)


def gradients(width=64, height=48):
    """Red and green of the photos in `heic_photos`, from 0 to 1."""
    row, column = np.mgrid[:height, :width]
    return 4 * column / 255, 5 * row / 255


def test_heic_of_8_bits_is_upright_with_its_metadata(tmp_path):
    pytest.importorskip("pi_heif")
    (tmp_path / "a.heic").write_bytes(EIGHT_BITS)
    photo = read_photo(tmp_path / "a.heic")
    assert photo.pixels.shape == (64, 48, 3)
    assert photo.pixels.dtype == np.uint8
    red, green = (np.rot90(map, -1) for map in gradients())
    assert np.abs(photo.pixels[..., 0] / 255 - red).mean() < 0.02  # it is compressed with loss
    assert np.abs(photo.pixels[..., 1] / 255 - green).mean() < 0.02
    assert photo.xmp == b"<x:xmpmeta/>"
    for format in FORMATS:
        path = tmp_path / f"b{FORMATS[format]}"
        assert write_photo(path, [photo.pixels], 64, photo, format=format) == ()
        with Image.open(path) as image:
            assert image.getexif()[0x010F] == "a camera"
            assert image.getexif()[0x0112] == 1
    assert read_rgb(tmp_path / "a.heic").shape == (64, 48, 3)
    assert read_size(tmp_path / "a.heic") == (48, 64)
    (tmp_path / "cut.heic").write_bytes(EIGHT_BITS[:-100])
    with pytest.raises(ImageError, match=r"cut\.heic"):
        read_photo(tmp_path / "cut.heic")


def test_heic_of_10_bits_has_16(tmp_path):
    pytest.importorskip("pi_heif")
    (tmp_path / "a.heic").write_bytes(TEN_BITS)
    photo = read_photo(tmp_path / "a.heic")
    assert photo.pixels.dtype == np.uint16
    red, green = gradients()
    assert np.abs(photo.pixels[..., 0] / 65535 - red).mean() < 0.02
    assert np.abs(photo.pixels[..., 1] / 65535 - green).mean() < 0.02
    assert photo.notices == ()


def test_a_heic_whose_names_are_no_text_does_not_end_the_process(tmp_path):
    pytest.importorskip("pi_heif")
    place = EIGHT_BITS.index(b"mime\0application")
    (tmp_path / "a.heic").write_bytes(EIGHT_BITS[: place + 2] + b"\xff\xff" + EIGHT_BITS[place + 4 :])
    with pytest.raises(ImageError, match=r"a\.heic: it is a damaged HEIC photo: names in it are no text"):
        read_photo(tmp_path / "a.heic")


def test_a_heic_without_the_extra_says_which(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(EIGHT_BITS)
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"HEIC photo, which needs an extra: `pip install './mrda\[formats\]'`"):
        read_photo(tmp_path / "a.heic")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jp2", ".ppm"])
def test_a_deep_photo_survives_as_png_and_tiff(tmp_path, suffix):
    pixels = DEEP[..., :3]
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tiff(path, pixels, photometric="rgb", compression="lzw")
    elif suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    elif suffix == ".jp2":
        path.write_bytes(imagecodecs.jpeg2k_encode(pixels, level=0))
    else:
        path.write_bytes(b"P6 24 16 65535\n" + pixels.astype(">u2").tobytes())
    photo = read_photo(path)
    for format in ("png", "tiff"):
        target = tmp_path / f"b{FORMATS[format]}"
        assert write_photo(target, [photo.pixels], 16, photo, format=format) == ()
        content = target.read_bytes()
        stored = imagecodecs.png_decode(content) if format == "png" else tifffile.imread(io.BytesIO(content))
        np.testing.assert_array_equal(stored, pixels)
