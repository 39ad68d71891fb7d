import errno
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, features

from mrda.photo.decoding import canonical
from mrda.photo.images import (
    SUFFIXES,
    ImageError,
    find_images,
    read_image,
    read_rgb,
    read_size,
    source_name,
    to_array,
    to_tensor,
    write_image,
)


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(folder, name, image, **options):
    path = folder / name
    image.save(path, **options)
    return path


def test_rgb_png_comes_back_unchanged(tmp_path, rgb):
    array = read_rgb(save(tmp_path, "a.png", Image.fromarray(rgb)))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, rgb)


def test_gray_is_replicated(tmp_path, rgb):
    array = read_rgb(save(tmp_path, "a.png", Image.fromarray(rgb[..., 0])))
    np.testing.assert_array_equal(array, np.stack([rgb[..., 0]] * 3, axis=-1))


def test_16_bit_gray_keeps_its_depth(tmp_path):
    levels = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1200
    for name in ("a.png", "a.tif"):
        array = read_rgb(save(tmp_path, name, Image.fromarray(levels)))
        assert array.dtype == np.uint16
        np.testing.assert_array_equal(array[..., 2], levels)


def test_16_bit_rgb_keeps_its_depth(tmp_path):
    levels = np.random.default_rng(1).integers(0, 65536, (4, 5, 3)).astype(">u2")

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    array = read_rgb(path)
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array, levels)


def tiff_of_16_bit_rgb(levels, planes):
    """An uncompressed little-endian TIFF, either pixel by pixel or plane by plane."""
    height, width, channels = levels.shape
    data = (np.moveaxis(levels, 2, 0) if planes else levels).astype("<u2").tobytes()
    strips = channels if planes else 1
    lists = 8 + 2 + 12 * 10 + 4  # where values stand that are too long for their tag
    offsets = lists + 6 + (8 * strips if planes else 0)
    starts, sizes = [offsets + i * (len(data) // strips) for i in range(strips)], [len(data) // strips] * strips
    tags = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [16] * channels),
        (259, 3, [1]),
        (262, 3, [2]),
        (273, 4, starts),
        (277, 3, [channels]),
        (278, 3, [height]),
        (279, 4, sizes),
        (284, 3, [2 if planes else 1]),
    ]
    directory, extra = b"", b""
    for tag, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", lists + len(extra)), extra + packed
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + b"\0" * 4 + extra + data


@pytest.mark.parametrize("planes", [False, True])
def test_16_bit_rgb_tiff_keeps_its_depth(tmp_path, planes):
    levels = np.random.default_rng(1).integers(0, 65536, (4, 5, 3))
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_of_16_bit_rgb(levels, planes))
    array = read_rgb(path)
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array, levels)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_known_suffix_is_read(tmp_path, rgb, suffix):
    mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
    # The AVIF codec is an option of Pillow's.
    Image.init()
    if Image.registered_extensions().get(suffix) not in Image.OPEN:
        pytest.skip(f"this Pillow was built without {suffix}")
    path = save(tmp_path, f"a{suffix}", Image.fromarray(rgb).convert(mode))
    assert find_images([tmp_path]) == [path]
    assert read_size(path) == (9, 6)
    assert read_rgb(path).shape == (6, 9, 3)


def test_the_size_alone(tmp_path, rgb):
    path = save(tmp_path, "a.png", Image.fromarray(rgb))
    whole = path.read_bytes()
    path.write_bytes(whole[:60])  # no pixel is decoded for it
    assert read_size(path) == (9, 6)
    path.write_text("milk")
    with pytest.raises(ImageError, match=r"a\.png: it is not an image"):
        read_size(path)
    with pytest.raises(ImageError, match="there is no such file"):
        read_size(tmp_path / "b.png")


def test_alpha_is_dropped_and_the_colour_below_it_kept(tmp_path, rgb):
    rgba = np.dstack([rgb, np.zeros((6, 9), np.uint8)])
    np.testing.assert_array_equal(read_rgb(save(tmp_path, "a.png", Image.fromarray(rgba))), rgb)
    gray_alpha = rgba[..., [0, 3]]
    array = read_rgb(save(tmp_path, "la.png", Image.fromarray(gray_alpha)))
    np.testing.assert_array_equal(array, np.stack([rgb[..., 0]] * 3, axis=-1))


def test_palette_is_converted(tmp_path, rgb):
    few = rgb // 128 * 255
    path = save(tmp_path, "a.png", Image.fromarray(few).quantize(8))
    with Image.open(path) as stored:
        assert stored.mode == "P"
    np.testing.assert_array_equal(read_rgb(path), few)


def test_palette_with_transparency_becomes_rgba(tmp_path, rgb):
    path = save(tmp_path, "a.png", Image.fromarray(rgb // 128 * 255).quantize(8), transparency=0)
    image = read_image(path)
    assert image.mode == "RGBA"
    assert 0 in np.asarray(image)[..., 3]


def test_cmyk_jpeg_is_converted(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    array = read_rgb(save(tmp_path, "a.jpg", image, quality=100))
    assert array.shape == (16, 16, 3)
    # Cyan off, magenta and yellow full: red, but for JPEG's rounding.
    assert array[..., 0].min() > 250
    assert array[..., 1:].max() < 5


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, rgb, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, "a.png", Image.fromarray(rgb), exif=exif)
    np.testing.assert_array_equal(read_rgb(path), np.rot90(rgb, turns))


@pytest.mark.parametrize("exif", [b"Exif\0\0?M\0*\0\0\0\x08", b"Exif\0\0MM\0*\0\0"])
def test_damaged_exif_does_not_cost_the_photo(tmp_path, rgb, exif):
    path = save(tmp_path, "a.png", Image.fromarray(rgb), exif=exif)
    np.testing.assert_array_equal(read_rgb(path), rgb)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("I;16", "I;16"), ("P", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB")],
)
def test_canonical_modes(mode, expected):
    assert canonical(Image.new(mode, (3, 2))).mode == expected


def test_32_bit_integers_within_16_bits_become_16_bit():
    image = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    np.testing.assert_array_equal(np.asarray(canonical(image)), np.array([[0, 65535]], np.uint16))


@pytest.mark.parametrize("value", [65536, -1])
def test_32_bit_integers_beyond_16_bits_are_refused(value):
    with pytest.raises(ImageError, match="32-bit integers"):
        canonical(Image.fromarray(np.array([[value]], dtype=np.int32)))


def test_float_tiff_is_refused_with_its_name(tmp_path):
    path = save(tmp_path, "depth.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(ImageError, match=r"depth\.tif.*floating-point"):
        read_rgb(path)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiffs_of_32_bit_integers_are_refused_whatever_their_values(tmp_path, dtype, compression):
    path = tmp_path / "small.tif"
    tifffile.imwrite(path, np.full((4, 4), 200, dtype), photometric="minisblack", compression=compression)
    with pytest.raises(ImageError, match=r"small\.tif: its pixels are 32-bit integers of unknown range: convert it"):
        read_image(path)
    tifffile.imwrite(path, np.full((4, 4), 200, np.uint16), photometric="minisblack", compression=compression)
    assert np.asarray(read_image(path)).max() == 200


def damaged(kind, folder, rgb):
    path = folder / "bad.png"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is a shopping list\n")
    elif kind == "truncated":
        big = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(big).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "corrupt":
        Image.fromarray(rgb).save(path)
        content = bytearray(path.read_bytes())
        content[45] ^= 0xFF
        path.write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "corrupt", "folder", "missing"])
def test_unreadable_files_are_named_in_one_line(tmp_path, rgb, kind):
    path = damaged(kind, tmp_path, rgb)
    with pytest.raises(ImageError) as caught:
        read_rgb(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_of_the_system_is_told_without_its_number(tmp_path, rgb, monkeypatch):
    path = save(tmp_path, "a.png", Image.fromarray(rgb))

    def locked(file):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)

    monkeypatch.setattr("mrda.photo.decoding.io.FileIO", locked)  # root may read anything
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value) == f"cannot read {path}: Permission denied"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "suffix", ["png", "jpg", "gif", "tif", "webp", "bmp", "ppm", "avif", "jp2", "tga", "qoi", "sgi"]
)
def test_random_damage_gives_an_image_or_a_clear_error(tmp_path, rgb, suffix):
    generator = np.random.default_rng(len(suffix))
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    whole = save(tmp_path, f"whole.{suffix}", Image.fromarray(rgb)).read_bytes()
    path = tmp_path / f"damaged.{suffix}"
    messages = []
    for _ in range(150):
        content = bytearray(whole)
        for place in generator.integers(0, min(len(content), 120), 3):
            content[place] = generator.integers(256)
        path.write_bytes(content[: generator.integers(len(content) // 2, len(content))])
        try:
            read_rgb(path)
        except ImageError as error:
            messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)


def test_skimage_photographs():
    pytest.importorskip("skimage")
    assert read_rgb("skimage:astronaut").shape == (512, 512, 3)
    with pytest.raises(ImageError, match="astronaut"):
        read_rgb("skimage:nobody")


def test_skimage_source_without_scikit_image(monkeypatch):
    monkeypatch.setattr("mrda.photo.source.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImageError, match="scikit-image is not installed"):
        read_rgb("skimage:astronaut")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_survive_the_way_to_a_tensor_and_back(dtype):
    top = np.iinfo(dtype).max
    levels = np.linspace(0, top, 3 * 40 * 50).reshape(40, 50, 3).astype(dtype)
    tensor = to_tensor(levels)
    assert tensor.shape == (1, 3, 40, 50)
    assert tensor.dtype == torch.float32
    assert tensor.max() == 1
    np.testing.assert_array_equal(to_array(tensor, dtype), levels)


def test_to_array_clips_and_rounds_half_to_even():
    tensor = torch.tensor([-0.2, 0.3, 1.7]).reshape(3, 1, 1)
    assert tensor[1] * 255 == 76.5
    np.testing.assert_array_equal(to_array(tensor), np.array([[[0, 76, 255]]], np.uint8))


def test_to_tensor_and_to_array_refuse_other_shapes_and_dtypes():
    with pytest.raises(ValueError, match=r"must be \(H, W\)"):
        to_tensor(np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="and not empty"):
        to_tensor(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(TypeError, match="int32"):
        to_tensor(np.zeros((4, 4, 3), np.int32))
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\)"):
        to_array(torch.zeros(2, 3, 4, 4))


def test_write_image_replaces_whole_files_only(tmp_path, rgb, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, rgb)
    np.testing.assert_array_equal(read_rgb(path), rgb)

    def stop_halfway(self, target, format):
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        write_image(path, 255 - rgb)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_rgb(path), rgb)


def test_find_images_lists_folders_sorted_and_each_source_once(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lone = tmp_path / "notes.txt"
    assert find_images([lone, tmp_path, tmp_path / "a.png", "skimage:coffee"]) == [
        lone,
        tmp_path / "a.png",
        tmp_path / "b.JPG",
        "skimage:coffee",
    ]
    assert tmp_path / "deep" / "c.webp" in find_images([tmp_path], recursive=True)


def test_find_images_refuses_a_folder_without_any(tmp_path):
    with pytest.raises(ImageError, match="holds no image"):
        find_images([tmp_path])


def test_source_name():
    assert source_name("skimage:coffee") == "coffee"
    assert source_name("some/where/cat.v2.png") == "cat.v2"


def test_find_images_lists_a_file_once_whatever_its_path(tmp_path, monkeypatch):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_images([f"{tmp_path}/a.png", tmp_path]) == [f"{tmp_path}/a.png"]
    assert find_images(["a.png", ".", "sub/../a.png", tmp_path]) == ["a.png"]
    assert find_images(["skimage:cat", "skimage:cat"]) == ["skimage:cat"]


def test_a_name_that_no_file_can_have_is_an_image_error():
    with pytest.raises(ImageError, match="there is no such file"):
        read_image(*find_images(["x" * 300 + ".png"]))
