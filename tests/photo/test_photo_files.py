import io
import itertools
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, JpegImagePlugin

from mrda.photo.files import FORMATS, Photo, read_photo, write_photo
from mrda.photo.images import ImageError, read_image
from mrda.photo.png import PNGWriter

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(channels: int, dtype: type, height: int = 9, width: int = 7) -> np.ndarray:
    top = np.iinfo(dtype).max
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(channels).integers(0, top, shape, dtype=dtype, endpoint=True)


def bands(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels[:2], pixels[2:3], pixels[3:]]


@pytest.mark.parametrize(("channels", "dtype"), [*itertools.product((1, 2, 3, 4), (np.uint8, np.uint16))])
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_png_and_tiff_keep_every_bit(tmp_path, channels, dtype, format):
    pixels = picture(channels, dtype)
    path = tmp_path / f"photo{FORMATS[format]}"
    assert write_photo(path, bands(pixels), 9, Photo(pixels), format=format) == ()
    if format == "png":
        np.testing.assert_array_equal(imagecodecs.png_decode(path.read_bytes()), pixels)
    else:
        np.testing.assert_array_equal(tifffile.imread(path), pixels)
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.pixels.dtype == dtype
    assert photo.notices == ()
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


def test_pillow_reads_what_is_written(tmp_path):
    for channels, mode in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")):
        pixels = picture(channels, np.uint8, 150, 40)
        for format in ("png", "tiff"):
            path = tmp_path / f"{mode}{FORMATS[format]}"
            write_photo(path, bands(pixels), 150, Photo(pixels), format=format)
            with Image.open(path) as image:
                assert image.mode == mode
                np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("format", FORMATS)
def test_profile_resolution_and_xmp_are_kept(tmp_path, format):
    pixels = picture(3, np.uint8)
    like = Photo(pixels, icc=SRGB, dpi=(300.0, 150.0), xmp=b"<x:xmpmeta/>")
    path = tmp_path / f"photo{FORMATS[format]}"
    assert write_photo(path, [pixels], 9, like, format=format) == ()
    photo = read_photo(path)
    assert photo.icc == SRGB
    assert photo.xmp == b"<x:xmpmeta/>"
    if format != "webp":
        assert photo.dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("format", FORMATS)
def test_exif_is_kept_but_for_orientation_and_sizes(tmp_path, format):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA002] = 12
    exif.get_ifd(0x8769)[0xA003] = 8
    Image.new("RGB", (12, 8)).save(tmp_path / "turned.jpg", exif=exif)
    photo = read_photo(tmp_path / "turned.jpg")
    assert photo.pixels.shape == (12, 8, 3)
    path = tmp_path / f"photo{FORMATS[format]}"
    large = photo.pixels.repeat(2, axis=0).repeat(2, axis=1)
    write_photo(path, [large], 24, photo, format=format)
    with Image.open(path) as image:
        written = image.getexif()
        assert image.size == (16, 24)
        assert written[0x010F] == "a camera"
        assert written[0x0112] == 1
        assert dict(written.get_ifd(0x8769)) == {0xA002: 16, 0xA003: 24}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_photos_are_turned_as_shallow_ones_are(tmp_path, orientation):
    pixels = picture(3, np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    shapes = []
    for name, values in (("shallow.png", pixels), ("deep.png", pixels.astype(np.uint16) * 257)):
        with (tmp_path / name).open("wb") as file, PNGWriter(file, 7, 9, 3, values.dtype, exif=block) as writer:
            writer.write(values)
        shapes.append(read_photo(tmp_path / name).pixels)
    np.testing.assert_array_equal(shapes[0].astype(np.uint16) * 257, shapes[1])


def test_planar_deep_tiff(tmp_path):
    pixels = picture(3, np.uint16)
    tifffile.imwrite(
        tmp_path / "planes.tif",
        pixels.transpose(2, 0, 1),
        photometric="rgb",
        planarconfig="separate",
        compression="zlib",
    )
    np.testing.assert_array_equal(read_photo(tmp_path / "planes.tif").pixels, pixels)


def test_without_imagecodecs_deep_colour_is_8_bits_and_said(tmp_path, monkeypatch):
    pixels = picture(3, np.uint16)
    write_photo(tmp_path / "deep.png", [pixels], 9, Photo(pixels), format="png")
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    photo = read_photo(tmp_path / "deep.png")
    assert photo.pixels.dtype == np.uint8
    assert photo.notices == ("16-bit colours were reduced to 8 bits: `pip install './mrda[formats]'` keeps them",)


@pytest.mark.parametrize(
    ("mode", "notice"), [("P", "the palette became RGB"), ("CMYK", "CMYK became RGB"), ("L", None)]
)
def test_what_is_converted_is_said(tmp_path, mode, notice):
    Image.new(mode, (5, 4)).save(tmp_path / "photo.tif")
    photo = read_photo(tmp_path / "photo.tif")
    assert photo.notices == (() if notice is None else (notice,))
    assert photo.pixels.shape == ((4, 5) if mode == "L" else (4, 5, 3))


def test_cmyk_goes_by_its_profile_and_drops_it(tmp_path):
    # Only that a profile which can't be used does no harm: there is no free profile of inks to test with.
    Image.new("CMYK", (5, 4)).save(tmp_path / "photo.jpg", icc_profile=SRGB)
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo.icc is None
    assert photo.pixels.shape == (4, 5, 3)


def test_a_profile_of_lab_is_dropped_and_said(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.new("LAB", (5, 4)).save(tmp_path / "photo.tif", icc_profile=profile)
    photo = read_photo(tmp_path / "photo.tif")
    assert photo.icc is None
    assert photo.notices == ("LAB became RGB, without its colour profile",)
    Image.new("LAB", (5, 4)).save(tmp_path / "photo.tif")
    assert read_photo(tmp_path / "photo.tif").notices == ("LAB became RGB",)


def test_an_animation_that_is_damaged_after_its_first_frame_is_read(tmp_path):
    frames = [Image.fromarray(picture(1, np.uint8)) for _ in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=[frames[1].rotate(180)])
    content = (tmp_path / "a.gif").read_bytes()
    second = content.rindex(b"\x2c\0\0\0\0")
    (tmp_path / "cut.gif").write_bytes(content[: second + 10])
    photo = read_photo(tmp_path / "cut.gif")
    np.testing.assert_array_equal(photo.pixels, read_photo(tmp_path / "a.gif").pixels)


def test_what_a_format_can_not_hold_is_said(tmp_path):
    pixels = picture(4, np.uint16)
    pixels[..., 3] = 0
    notices = write_photo(tmp_path / "photo.jpg", [pixels], 9, Photo(pixels), format="jpg", quality=100)
    assert notices == (
        "16 bits were reduced to 8, because jpg has no more",
        "transparency became white, because jpg has none",
    )
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.mode == "RGB"
        assert np.asarray(image).min() > 250


def test_quality(tmp_path):
    pixels = picture(3, np.uint8, 64, 64)
    sizes = []
    for quality in (30, 95):
        write_photo(tmp_path / "photo.jpg", [pixels], 64, Photo(pixels), format="jpg", quality=quality)
        sizes.append((tmp_path / "photo.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(("quality", "subsampling"), [(89, 2), (90, 0), (95, 0)])
def test_the_chroma_of_good_jpegs_keeps_its_resolution(tmp_path, quality, subsampling):
    for channels in (1, 3):
        pixels = picture(channels, np.uint8)
        write_photo(tmp_path / "a.jpg", [pixels], 9, Photo(pixels), format="jpg", quality=quality)
        with Image.open(tmp_path / "a.jpg") as image:
            assert JpegImagePlugin.get_sampling(image) == (subsampling if channels == 3 else -1)


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match="it has 30 x 20 = 600 pixels, more than the 599 that are allowed"):
        read_photo(tmp_path / "large.png", max_pixels=599)
    assert read_photo(tmp_path / "large.png", max_pixels=600).pixels.shape == (20, 30, 3)


@pytest.mark.parametrize(("format", "name", "side"), [("webp", "WebP", 16383), ("jpg", "JPEG", 65500)])
def test_what_is_too_large_for_the_format_is_refused(tmp_path, format, name, side):
    rows = np.zeros((1, side + 1), np.uint8)
    with pytest.raises(
        ValueError, match=f"{name} holds at most {side} x {side} pixels, but the image has {side + 1} x 1"
    ):
        write_photo(tmp_path / f"a.{format}", [rows], 1, Photo(np.zeros(0)), format=format)
    write_photo(tmp_path / f"a.{format}", [rows[:, 1:]], 1, Photo(np.zeros(0)), format=format)
    (tmp_path / f"a.{format}").unlink()
    assert not list(tmp_path.iterdir())


def test_an_image_that_ends_early_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="the image has 10 rows, but 9 were written"):
        write_photo(tmp_path / "a.png", [picture(3, np.uint8)], 10, Photo(np.zeros(0)), format="png")
    assert not list(tmp_path.iterdir())


def test_five_channels_are_no_png():
    with pytest.raises(ValueError, match="an image with 5 channels of uint8 can't be a PNG"):
        PNGWriter(io.BytesIO(), 2, 2, 5, np.uint8)


ORIENTED = [
    np.arange(63, dtype=np.uint8).reshape(9, 7),
    picture(3, np.uint8),
    picture(4, np.uint8),
    picture(1, np.uint16),
    picture(3, np.uint16),
]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("pixels", ORIENTED, ids=["gray", "rgb", "rgba", "gray16", "rgb16"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiffs_are_turned_upright(tmp_path, pixels, orientation, compression):
    turns = {2: "h", 3: "hv", 4: "v", 5: "t", 6: "th", 7: "thv", 8: "tv"}.get(orientation, "")
    expected = pixels
    for turn in turns:  # transposed, then mirrored along the columns or rows
        expected = expected.swapaxes(0, 1) if turn == "t" else expected[:, ::-1] if turn == "h" else expected[::-1]
    tifffile.imwrite(
        tmp_path / "turned.tif",
        pixels,
        photometric="rgb" if pixels.ndim == 3 else "minisblack",
        extrasamples=["unassalpha"] if pixels.shape[2:] == (4,) else None,
        compression=compression,
        extratags=[(274, 3, 1, orientation, True)],
        metadata=None,
    )
    np.testing.assert_array_equal(read_photo(tmp_path / "turned.tif").pixels, expected)


def test_deep_tiffs_with_premultiplied_alpha_are_divided_by_it(tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint16)
    pixels[0] = (10000, 5000, 0, 20000)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    photo = read_photo(tmp_path / "a.tif")
    assert photo.notices == ()
    np.testing.assert_array_equal(photo.pixels[0], np.full((3, 4), (32768, 16384, 0, 20000)))  # 65535 / 2, half to even
    assert not photo.pixels[1].any()


def test_16_bit_gray_whose_zero_is_white(tmp_path):
    pixels = picture(1, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels, 65535 - pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), 65535 - pixels)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:title="a cat"/></x:xmpmeta>'


@pytest.mark.parametrize("orientation", [None, 1, 6])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_the_orientation_leaves_xmp_too(tmp_path, orientation, suffix):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (12, 8)).save(tmp_path / f"a{suffix}", exif=exif, xmp=XMP)
    photo = read_photo(tmp_path / f"a{suffix}")
    assert b"Orientation" not in photo.xmp
    assert b'dc:title="a cat"' in photo.xmp
    assert photo.pixels.shape[:2] == ((8, 12) if orientation == 1 else (12, 8))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_to_exif_costs_no_photo(tmp_path):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a cat", 6
    exif.get_ifd(0x8769).update({0x9003: "2020:01:01 00:00:00", 0x829A: (1, 100)})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    Image.new("RGB", (12, 8)).save(tmp_path / "a.jpg", exif=exif)
    whole = (tmp_path / "a.jpg").read_bytes()
    start, end = whole.index(b"Exif\0\0") + 6, whole.index(b"\xff\xdb")
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(300):
        content = bytearray(whole)
        for place in generator.integers(start, end, 3):
            content[place] = generator.choice([0, 1, 127, 128, 255])
        (tmp_path / "b.jpg").write_bytes(content)
        photo = read_photo(tmp_path / "b.jpg")
        height = photo.pixels.shape[0]
        for format in ("png", "jpg"):
            notices = write_photo(tmp_path / f"c.{format}", [photo.pixels], height, photo, format=format)
        told += "damaged EXIF was left out" in (*photo.notices, *notices)
    assert told


@pytest.mark.parametrize("per_inch", [0, 0.5, 70000, 4_000_000_000])
def test_an_absurd_resolution_is_none(tmp_path, per_inch):
    pixels = picture(3, np.uint8)
    resolution = ((int(2 * per_inch), 2), (72, 1))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", resolution=resolution, resolutionunit="INCH")
    assert read_photo(tmp_path / "a.tif").dpi is None


@pytest.mark.parametrize(("name", "title"), [("xmp", "XMP"), ("exif", "EXIF"), ("comments", "the comment")])
@pytest.mark.parametrize("over", [0, 1])
def test_blocks_too_large_for_jpeg_are_left_out(tmp_path, name, title, over):
    pixels = picture(3, np.uint8)
    if name == "comments":
        block = (b"x" * (65533 + over),)
    elif name == "xmp":
        block = b"x" * (65533 - 29 + over)
    else:
        exif = Image.Exif()
        exif[0x010E] = "d" * (60000 + 10000 * over)
        block = exif.tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "a.jpg"
    notices = write_photo(path, [pixels], 9, Photo(pixels, **{name: block}), format="jpg")
    assert notices == ((f"{title} was left out, because a JPEG has at most 64 KB for it",) if over else ())
    assert (not getattr(read_photo(path), name)) == bool(over)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp"])
def test_further_frames_are_said_to_be_left_out(tmp_path, suffix):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    photo = read_photo(tmp_path / f"a{suffix}")
    assert "only the first of 3 pages or frames was kept" in photo.notices
    assert photo.pixels[0, 0, 0] > 200


def test_a_gray_profile_is_no_good_for_webp(tmp_path):
    pixels = picture(1, np.uint8)
    gray = SRGB[:16] + b"GRAY" + SRGB[20:]
    notices = write_photo(tmp_path / "a.webp", [pixels], 9, Photo(pixels, icc=gray), format="webp")
    assert notices == ("the colour profile was left out, because WebP stores gray as RGB",)
    assert read_photo(tmp_path / "a.webp").icc is None


def with_chunk(path, name, content):
    """Put a chunk behind a PNG's header."""
    whole = path.read_bytes()
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(whole[:33] + chunk + whole[33:])


def test_16_bit_gray_png_with_a_transparent_level(tmp_path, monkeypatch):
    pixels = picture(1, np.uint16)
    write_photo(tmp_path / "a.png", [pixels], 9, Photo(pixels), format="png")
    with_chunk(tmp_path / "a.png", b"tRNS", struct.pack(">H", pixels[3, 4]))
    read = read_photo(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(read[..., 0], pixels)
    np.testing.assert_array_equal(read[..., 1], np.where(pixels == pixels[3, 4], 0, 65535))
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    photo = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, read)
    assert photo.notices == ()
