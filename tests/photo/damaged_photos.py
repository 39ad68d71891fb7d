"""Reads damaged photos in a process of its own, with little time and memory: what would harm a person's run, ends it.

Usage: python damaged_photos.py FOLDER COUNT SEED. Each outcome is a line on stdout; the last file read stays in FOLDER.
"""

import importlib.util
import io
import itertools
import resource
import signal
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from heic_photos import EIGHT_BITS, TEN_BITS
from PIL import Image, ImageCms

from mrda.photo.files import read_photo
from mrda.photo.images import ImageError
from mrda.photo.png import PNGWriter

SECONDS = 10  # of computing, for one photo; some milliseconds are enough
PIXELS = 250_000
MEMORY = 2**27  # bytes: some ten copies of so many pixels in 16-bit RGBA, and much for allocators and threads
NUMBERS = (0, 1, 2, 7, 16, 255, 256, 1000, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def photos() -> dict[str, bytes]:
    """Small whole files of many kinds."""
    generator = np.random.default_rng(0)
    deep = generator.integers(0, 65536, (20, 24, 4), dtype=np.uint16)
    pixels = (deep >> 8).astype(np.uint8)
    rgb, rgba = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a cat"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "rgb.png": pillow(rgb, "PNG", icc_profile=icc, exif=exif),
        "rgba.png": pillow(rgba, "PNG", dpi=(300, 300)),
        "palette.png": pillow(rgb.convert("P"), "PNG", transparency=3),
        "bits.png": pillow(rgb.convert("1"), "PNG"),
        "animated.png": pillow(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
        "gray16.png": pillow(Image.fromarray(deep[..., 0]), "PNG"),
        "rgb16.png": png(deep[..., :3]),
        "rgba16.png": png(deep),
        "photo.jpg": pillow(rgb, "JPEG", exif=exif, icc_profile=icc),
        "progressive.jpg": pillow(rgb, "JPEG", progressive=True, subsampling=2),
        "cmyk.jpg": pillow(rgb.convert("CMYK"), "JPEG"),
        "lossy.webp": pillow(rgba, "WEBP", exif=exif),
        "lossless.webp": pillow(rgb, "WEBP", lossless=True),
        "animated.webp": pillow(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        "photo.gif": pillow(rgb, "GIF"),
        "animated.gif": pillow(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
        "photo.bmp": pillow(rgb, "BMP"),
        "palette.bmp": pillow(rgb.convert("P"), "BMP"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"{compression}.tif"] = pillow(rgb, "TIFF", compression=compression, exif=exif)
    for name, options in {
        "strips": {"rowsperstrip": 7},
        "tiles": {"tile": (16, 16)},
        "lzw": {"compression": "lzw", "predictor": True},
        "tiles-lzw": {"compression": "lzw", "tile": (16, 16)},
        "tiles-deflate": {"compression": "zlib", "tile": (16, 16), "predictor": True},
    }.items():
        files[f"{name}16.tif"] = tiff(deep[..., :3], photometric="rgb", **options)
        files[f"{name}.tif"] = tiff(pixels, photometric="rgb", extrasamples=["unassalpha"], **options)
    files["premultiplied16.tif"] = tiff(deep, photometric="rgb", extrasamples=["assocalpha"])
    files["planes16.tif"] = tiff(
        np.moveaxis(deep[..., :3], 2, 0), photometric="rgb", planarconfig="separate", compression="zlib"
    )
    files["negative16.tif"] = tiff(deep[..., 0], photometric="miniswhite")
    files["big16.tif"] = tiff(deep[..., :3], photometric="rgb", bigtiff=True)
    files["gray12.tif"] = tiff(deep[..., 0] >> 4, photometric="minisblack", bitspersample=12)
    files["cmyk16.tif"] = tiff(deep, photometric="separated")
    files["deep.ppm"] = b"P6 24 20 65535\n" + deep[..., :3].astype(">u2").tobytes()
    files["plain.pgm"] = b"P2 24 20 65535\n" + b" ".join(b"%d" % level for level in deep[..., 0].ravel())
    sgi = struct.pack(">HBBHHHHII", 0x01DA, 0, 2, 3, 24, 20, 3, 0, 65535).ljust(512, b"\0")
    files["deep.sgi"] = sgi + deep[::-1, :, :3].transpose(2, 0, 1).astype(">u2").tobytes()
    files["deep.jp2"] = imagecodecs.jpeg2k_encode(deep[..., :3], level=0)
    files["deep.avif"] = imagecodecs.avif_encode(deep[..., :3] >> 6, bitspersample=10, level=90)
    if importlib.util.find_spec("pi_heif") is not None:
        files |= {"photo.heic": EIGHT_BITS, "deep.heic": TEN_BITS}
    return files


def bombs() -> dict[str, bytes]:
    """Small photos that grow, or never end."""
    zeros = bytes(MEMORY + 1)
    deflated, lzw = zlib.compress(zeros, 9), imagecodecs.lzw_encode(zeros)
    pixels = np.zeros((20, 24, 3), np.uint16)
    start, end = png(pixels)[:33], png(pixels)[33:]
    files = {
        "profile.png": start + chunk(b"iCCP", b"profile\0\0" + deflated) + end,
        "text.png": start + chunk(b"zTXt", b"Comment\0\0" + deflated) + end,
        "xmp.png": start + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + deflated) + end,
        "rows.png": start + chunk(b"IDAT", deflated) + chunk(b"IEND", b""),
    }
    for name, data in (("adobe_deflate", deflated), ("lzw", lzw)):
        for dtype in (np.uint8, np.uint16):
            options = {"shape": pixels.shape, "dtype": dtype, "rowsperstrip": 20}
            files[f"{name}-{np.dtype(dtype)}.tif"] = tiff(iter([data]), photometric="rgb", compression=name, **options)
    endless = bytearray(tiff(pixels, photometric="rgb"))
    first, tags = int.from_bytes(endless[4:8], "little"), int.from_bytes(endless[8:10], "little")
    after = first + 2 + 12 * tags
    endless[after : after + 4] = endless[4:8]  # after the first page comes the first page
    files["endless.tif"] = bytes(endless)
    return files


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def pillow(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    with PNGWriter(file, pixels.shape[1], pixels.shape[0], pixels.shape[2], pixels.dtype) as writer:
        writer.write(pixels)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


# Damages; each changes some bytes.


def flip(content: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(0, len(content), random.integers(1, 9)):
        content[place] ^= 1 << int(random.integers(8))


def cut(content: bytearray, random: np.random.Generator) -> None:
    del content[random.integers(0, len(content)) :]


def splice(content: bytearray, random: np.random.Generator) -> None:
    """Repeat, move or drop a piece."""
    source, length, place = random.integers(0, len(content), 3)
    piece = content[source : source + length]
    content[place : place + random.choice([0, len(piece)])] = piece if random.random() < 0.8 else b""


def renumber(content: bytearray, random: np.random.Generator) -> None:
    """Put a number where one may be, mostly into the header or, of a TIFF, the tags."""
    places = [0, 300]
    if content[:2] in (b"II", b"MM") and len(content) > 8:
        start = int.from_bytes(content[4:8], "little" if content[:2] == b"II" else "big")
        places = [start, start + 250] if start < len(content) else places
    if random.random() < 0.2:
        places = [0, len(content)]
    form = random.choice(["<I", ">I", "<H", ">H", "B", "<Q"])
    size = struct.calcsize(form)
    place = int(random.integers(places[0], places[1]))
    if place + size <= len(content):
        number = int(random.choice(NUMBERS)) + int(random.integers(-1, 2)) * (random.random() < 0.3)
        content[place : place + size] = struct.pack(form, number % 2 ** (8 * size))


DAMAGES: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (flip, cut, splice, renumber, renumber)


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    content = bytearray(whole)
    for damage in random.choice(len(DAMAGES), random.integers(1, 4)):
        if len(content) > 16:
            DAMAGES[damage](content, random)
    if content[:4] == b"\x89PNG" and random.random() < 0.8:
        mend_checksums(content)
    return bytes(content)


def mend_checksums(content: bytearray) -> None:
    """Correct the checksums of a PNG, because decoders stop at a wrong one."""
    place = 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            return
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4


def outcome(path: Path) -> str:
    """Read a photo and return the outcome; raise unless it is an image or a clear error."""
    try:
        photo = read_photo(path, PIXELS)
    except ImageError as error:
        message = str(error)
        if message.count(str(path)) != 1 or "\n" in message:
            raise
        return f"refused: {message}"
    height, width = photo.pixels.shape[:2]
    assert 0 < height * width <= PIXELS
    assert photo.pixels.dtype in (np.uint8, np.uint16)
    assert photo.pixels.ndim == 2 or photo.pixels.shape[2] in (2, 3, 4)
    return f"read: {photo.notices}"


def main(folder: Path, count: int, seed: int) -> None:
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # as the command has it
    wholes = photos()
    for name, content in wholes.items():  # whatever is imported or kept at the first time, is so now
        (folder / name).write_bytes(content)
        line = outcome(folder / name)
        assert line.startswith("read"), (name, line)
        (folder / name).unlink()
    harmful = itertools.chain(bombs().items(), harm(wholes, count, seed))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, content in harmful:
        path = folder / name
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # which ends the process, even in the midst of a decoder
        line = outcome(path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(path.name, line, flush=True)
        path.unlink()


def harm(wholes: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(seed)
    for number, name in zip(range(count), itertools.cycle(wholes)):
        yield f"{number:05}-{name}", damaged(wholes[name], random)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
