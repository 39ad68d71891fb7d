import io
import itertools

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from mrda.images import ImageError
from mrda.photos import FORMATS, Photo, read_photo, write_photo
from mrda.png import PNGWriter

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
    if (format, channels, dtype) == ("tiff", 2, np.uint16):
        return  # Pillow, which reads the rest of a photo, opens no such file
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.pixels.dtype == dtype
    assert photo.format == format
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


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
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
        assert 0x0112 not in written
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
    assert photo.notices == ("16-bit colours became 8 bits: `pip install 'mrda-kernels[deep]'` keeps them",)


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


def test_what_a_format_can_not_hold_is_said(tmp_path):
    pixels = picture(4, np.uint16)
    pixels[..., 3] = 0
    notices = write_photo(tmp_path / "photo.jpg", [pixels], 9, Photo(pixels), format="jpg", quality=100)
    assert notices == ("16 bits became 8, as jpg holds no more", "transparency became white, as jpg holds none")
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


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match="it has 30 x 20 = 600 pixels, more than the 599 that are allowed"):
        read_photo(tmp_path / "large.png", max_pixels=599)
    assert read_photo(tmp_path / "large.png", max_pixels=600).pixels.shape == (20, 30, 3)


def test_a_webp_that_is_too_large_is_refused(tmp_path):
    with pytest.raises(ValueError, match="WebP holds at most 16383 x 16383 pixels, the image has 16384 x 1"):
        write_photo(tmp_path / "a.webp", [np.zeros((1, 16384), np.uint8)], 1, Photo(np.zeros(0)), format="webp")
    assert not list(tmp_path.iterdir())


def test_an_image_that_ends_early_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="the image has 10 rows, but 9 were written"):
        write_photo(tmp_path / "a.png", [picture(3, np.uint8)], 10, Photo(np.zeros(0)), format="png")
    assert not list(tmp_path.iterdir())


def test_five_channels_are_no_png():
    with pytest.raises(ValueError, match="an image of 5 channels of uint8 can't be a PNG"):
        PNGWriter(io.BytesIO(), 2, 2, 5, np.uint8)
