"""Photographs with all that a person wants to keep of them: 16 bits, transparency, colour profile, EXIF, resolution."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageCms, TiffImagePlugin

from mrda.files import atomic_write
from mrda.images import ImageArray, ImageError, Source, canonical, locate, opened, to_eight_bits, upright
from mrda.png import PNGWriter

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
"""Suffixes by the names of the formats that can be written."""
MAX_PIXELS = 250_000_000
"""Pixels of the largest photo that is read unless more are allowed."""

_ORIENTATION, _EXIF_IFD, _PIXEL_X, _PIXEL_Y = 0x0112, 0x8769, 0xA002, 0xA003
_BY_FORMAT = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "TIFF": "tiff"}
_STRIP_ROWS = 64
_WEBP_SIDE = 16383


@dataclass(frozen=True)
class Photo:
    """A photograph, upright.

    Attributes:
        pixels: (H, W) or (H, W, C), uint8 or uint16; C is 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
        format: a key of `FORMATS`, that of the file where it is one of them, else "png".
        icc: its colour profile.
        exif: its EXIF block without orientation and thumbnail, from the byte order on.
        xmp: its XMP packet.
        dpi: pixels per inch, horizontally and vertically.
        notices: what could not be kept, in a few words each.
    """

    pixels: ImageArray
    format: str = "png"
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notices: tuple[str, ...] = ()


def read_photo(source: Source, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photograph and turn it upright, as its EXIF orientation says.

    A palette becomes RGB, and CMYK too: by its colour profile where it has one. 16-bit colour stays so where
    imagecodecs is installed, by the extra `deep`.

    Args:
        source: see `mrda.images.read_image`.
        max_pixels: a photo of more is refused before it is decoded.

    Raises:
        ImageError: as `mrda.images.read_image`, or the photo is larger than ``max_pixels``.
    """
    with opened(source) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"it has {width} x {height} = {width * height:,} pixels, more than the {max_pixels:,} that are allowed"
            )
        image.load()
        photo = Photo(
            pixels=np.empty(0),
            format=_BY_FORMAT.get(image.format or "", "png"),
            icc=image.info.get("icc_profile"),
            xmp=_as_bytes(image.info.get("xmp")),
            dpi=_dpi(image),
        )
        orientation = image.getexif().get(_ORIENTATION, 1)
        turned = upright(image)
        photo = replace(photo, exif=_exif(turned))
        if _is_deep_colour(source, image):
            deep, notice = _read_deep(source, image)
            if deep is not None:
                return replace(photo, pixels=_oriented(deep, orientation))
            photo = replace(photo, notices=(notice,))
        return _with_pixels(photo, turned)


def write_photo(
    path: str | Path,
    bands: Iterable[ImageArray],
    height: int,
    like: Photo,
    *,
    format: str,
    quality: int = 95,
) -> tuple[str, ...]:
    """Write a photograph from its bands of rows, whole or not at all. PNG and TIFF are written as the bands come.

    Args:
        path: the file.
        bands: (n, W) or (n, W, C) each, uint8 or uint16, from top to bottom; at least one.
        height: rows in all.
        like: where colour profile, EXIF, XMP and resolution come from.
        format: a key of `FORMATS`.
        quality: of JPEG and WebP, 1 to 100.

    Returns:
        What could not be kept, in a few words each.

    Raises:
        OSError: the folder is missing or the disk is full.
        ValueError: WebP can't hold an image of that size.
    """
    stream = iter(bands)
    first = next(stream)
    width, channels = first.shape[1], first.shape[2] if first.ndim == 3 else 1
    exif = None if like.exif is None else _sized(like.exif, width, height)
    if format in ("png", "tiff"):
        with atomic_write(path) as temporary:
            if format == "png":
                _write_png(temporary, first, stream, height, channels, like, exif)
            else:
                _write_tiff(temporary, first, stream, height, channels, like)
        return ("EXIF was left out, as TIFF keeps it in another way",) if exif and format == "tiff" else ()
    if format == "webp" and max(width, height) > _WEBP_SIDE:
        raise ValueError(f"WebP holds at most {_WEBP_SIDE} x {_WEBP_SIDE} pixels, the image has {width} x {height}")
    notices = []
    pixels = np.concatenate([first, *stream])
    if pixels.dtype == np.uint16:
        pixels = to_eight_bits(pixels)
        notices.append(f"16 bits became 8, as {format} holds no more")
    if format == "jpg" and channels in (2, 4):
        pixels = _on_white(pixels)
        notices.append("transparency became white, as jpg holds none")
    options: dict[str, Any] = {
        "quality": quality,
        "icc_profile": like.icc,
        "exif": b"Exif\0\0" + exif if exif else None,
        "xmp": like.xmp,
    }
    if like.dpi is not None and format == "jpg":
        options["dpi"] = like.dpi
    with atomic_write(path) as temporary:
        picture = Image.fromarray(pixels)
        picture.save(temporary, **{key: value for key, value in options.items() if value is not None})
    return tuple(notices)


def _with_pixels(photo: Photo, image: Image.Image) -> Photo:
    notices, icc = list(photo.notices), photo.icc
    if image.mode == "CMYK":
        notices.append("CMYK became RGB")
        if icc is not None:
            image = _to_srgb(image, icc)
        icc = None  # it describes inks
    elif image.mode == "P" or image.mode == "PA":
        notices.append("the palette became RGB")
    elif image.mode in ("LAB", "HSV"):
        notices.append(f"{image.mode} became RGB")
        icc = None
    return replace(photo, pixels=np.asarray(canonical(image)), icc=icc, notices=tuple(notices))


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):  # a damaged profile; the pixels are still a photograph
        return image
    return image if converted is None else converted


def _is_deep_colour(source: Source, image: Image.Image) -> bool:
    """Whether Pillow has made 8 bits of more: it does so to all but gray."""
    if image.format == "TIFF" and isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return max(bits) == 16 and len(bits) > 1
    if image.format != "PNG" or image.mode not in ("RGB", "RGBA", "LA"):
        return False
    with locate(source).open("rb") as file:
        head = file.read(25)
    return len(head) == 25 and head[24] == 16


def _read_deep(source: Source, image: Image.Image) -> tuple[ImageArray | None, str]:
    """16-bit colour, or why there is none."""
    try:
        import imagecodecs
    except ModuleNotFoundError:
        return None, "16-bit colours became 8 bits: `pip install 'mrda-kernels[deep]'` keeps them"
    path = locate(source)
    try:
        if image.format == "PNG":
            pixels = imagecodecs.png_decode(path.read_bytes())
        else:
            with tifffile.TiffFile(path) as file:
                page = file.pages.first
                pixels = page.asarray()
                if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                    pixels = np.moveaxis(pixels, 0, -1)
    except (imagecodecs.PngError, tifffile.TiffFileError, ValueError, RuntimeError) as error:
        raise ImageError(f"cannot read {source}: {error}") from error
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in (2, 3, 4):
        return None, "16-bit colours of an unusual kind became 8 bits"
    return pixels, ""


def _oriented(pixels: ImageArray, orientation: int) -> ImageArray:
    """Turn upright what EXIF's orientation 1 to 8 describes."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _on_white(pixels: ImageArray) -> ImageArray:
    colour, alpha = pixels[..., :-1].astype(np.float32), pixels[..., -1:].astype(np.float32) / 255
    levels = np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return levels[..., 0] if levels.shape[-1] == 1 else levels


def _exif(image: Image.Image) -> bytes | None:
    exif = image.getexif()
    exif.pop(_ORIENTATION, None)
    if not len(exif):
        return None
    return _without_prefix(exif.tobytes())


def _sized(block: bytes, width: int, height: int) -> bytes:
    """The block, its pixel dimensions brought up to date where it has any."""
    exif = Image.Exif()
    exif.load(block)
    ifd = exif.get_ifd(_EXIF_IFD)
    if _PIXEL_X in ifd or _PIXEL_Y in ifd:
        ifd[_PIXEL_X], ifd[_PIXEL_Y] = width, height
    return _without_prefix(exif.tobytes())


def _without_prefix(block: bytes) -> bytes:
    return block.removeprefix(b"Exif\0\0")


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    if dpi is None or not all(float(value) > 0 for value in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def _as_bytes(text: bytes | str | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text


def _write_png(
    path: Path,
    first: ImageArray,
    rest: Iterator[ImageArray],
    height: int,
    channels: int,
    like: Photo,
    exif: bytes | None,
) -> None:
    keep: dict[str, Any] = {"icc": like.icc, "exif": exif, "xmp": like.xmp, "dpi": like.dpi}
    with path.open("wb") as file, PNGWriter(file, first.shape[1], height, channels, first.dtype, **keep) as writer:
        writer.write(first)
        for band in rest:
            writer.write(band)


def _write_tiff(
    path: Path, first: ImageArray, rest: Iterator[ImageArray], height: int, channels: int, like: Photo
) -> None:
    tifffile.imwrite(
        path,
        (_deflated(strip) for strip in _strips(first, rest)),
        shape=(height, *first.shape[1:]),
        dtype=first.dtype,
        byteorder="<",
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="adobe_deflate",
        predictor=True,
        rowsperstrip=_STRIP_ROWS,
        iccprofile=like.icc,
        resolution=like.dpi,
        resolutionunit="INCH" if like.dpi else None,
        metadata=None,
        bigtiff=first[:1].nbytes * height > 2**31,
        extratags=[] if like.xmp is None else [(700, 1, len(like.xmp), like.xmp, True)],
    )


def _strips(first: ImageArray, rest: Iterator[ImageArray]) -> Iterator[ImageArray]:
    """Bands of exactly `_STRIP_ROWS` rows, the last one excepted."""
    held = first
    while True:
        while len(held) >= _STRIP_ROWS:
            yield held[:_STRIP_ROWS]
            held = held[_STRIP_ROWS:]
        band = next(rest, None)
        if band is None:
            if len(held):
                yield held
            return
        held = np.concatenate([held, band])


def _deflated(strip: ImageArray) -> bytes:
    """A strip as TIFF stores it: the differences along the rows, compressed."""
    differences = strip.astype(strip.dtype.newbyteorder("<"))
    differences[:, 1:] -= strip[:, :-1]
    return zlib.compress(differences.tobytes())
