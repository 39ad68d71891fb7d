# SPDX-License-Identifier: Apache-2.0
"""Reads and writes images; all other modules use these functions to do so."""

import importlib.util
import io
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, TiffImagePlugin

from mrda.core.faults import reason
from mrda.core.files import atomic_write
from mrda.photo.opening import open_image

Source = str | Path
"""A path, or `"skimage:NAME"` for a photograph in the scikit-image wheel."""

ImageArray = npt.NDArray[Any]

SKIMAGE_PREFIX = "skimage:"
SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx",
     ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"}
)  # fmt: skip
"""Suffixes of the photographs in a folder. A file that is named itself may have any suffix."""

EXIF_ERRORS = (SyntaxError, struct.error, TypeError, AttributeError, ValueError, LookupError, OverflowError)
"""Raised by Pillow for a damaged EXIF block."""

ORIENTATION = 0x0112
"""Number of the EXIF tag."""
_PHOTOMETRIC = 0x0106
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image could not be read; the message is one sentence that names the file."""


def read_image(source: Source) -> Image.Image:
    """Read a photograph in one of five modes, turned upright according to its EXIF orientation.

    Args:
        source: a path or `"skimage:NAME"`, e.g. `"skimage:astronaut"`.

    Returns:
        A fully decoded image in mode L, LA, I;16, RGB or RGBA (see `canonical`); an animation's first frame.

    Raises:
        ImageError: the file is missing, empty, not an image, damaged, or its range of values is unknown.
    """
    with opened(source) as image:
        return canonical(decoded(image))


def read_size(source: Source) -> tuple[int, int]:
    """Look up a photograph's width and height in pixels, as stored, without decoding it.

    Raises:
        ImageError: as `read_image`, for errors at the beginning of the file.
    """
    with opened(source) as image:
        return image.size


def read_rgb(source: Source) -> ImageArray:
    """Read a photograph as RGB: gray is replicated, a palette is converted, alpha is dropped.

    Args:
        source: as for `read_image`.

    Returns:
        (H, W, 3), uint8, or uint16 for a 16-bit gray file. Pillow reduces 16-bit colour to 8 bits, by its upper byte or
        by rounding, so the error is below one level.

    Raises:
        ImageError: as `read_image`.
    """
    array = np.asarray(read_image(source))
    if array.ndim == 2:
        return np.stack([array] * 3, axis=-1)
    if array.shape[2] == 2:
        return np.repeat(array[..., :1], 3, axis=-1)
    return np.ascontiguousarray(array[..., :3])


def canonical(image: Image.Image) -> Image.Image:
    """Convert to the mode that keeps the image's colours: L, LA, I;16, RGB or RGBA.

    Args:
        image: an image in any of Pillow's modes.

    Returns:
        Bilevel becomes L, 16-bit gray I;16, a palette and every other colour space RGB; or LA or RGBA if there is
        transparency of any kind.

    Raises:
        ImageError: 32-bit integer or floating-point pixels, whose white level is undefined.
    """
    if image.mode in ("L", "LA", "I;16", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ImageError("its pixels are 32-bit integers beyond the 16-bit range 0..65535")
        return Image.fromarray(levels.astype(np.uint16))
    if image.mode == "F":
        raise ImageError("its pixels are floating-point numbers of unknown range")
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        return image.convert("LA" if gray else "RGBA")
    return image.convert("L" if gray else "RGB")


def to_tensor(array: ImageArray) -> torch.Tensor:
    """Turn an image array into a network's input.

    Args:
        array: (H, W) or (H, W, C), uint8 (0..255), uint16 (0..65535) or floating point in [0, 1].

    Returns:
        (1, C, H, W) float32 in [0, 1]; C = 1 for (H, W).

    Raises:
        ValueError: another shape.
        TypeError: another dtype.
    """
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"array has shape {array.shape}, but must be (H, W) or (H, W, C) and not empty")
    values = np.atleast_3d(array).astype(np.float32) / np.float32(_white(array.dtype))
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))


def to_array(tensor: torch.Tensor, dtype: npt.DTypeLike = np.uint8) -> ImageArray:
    """Turn one image in [0, 1] into an array; values are clipped, and rounded half to even for integers.

    Args:
        tensor: (1, C, H, W) or (C, H, W), floating point.
        dtype: uint8 (0..255), uint16 (0..65535) or floating point ([0, 1]).

    Returns:
        (H, W, C) of that dtype.

    Raises:
        ValueError: another shape.
        TypeError: another dtype.
    """
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}, but must be (1, C, H, W) or (C, H, W)")
    dtype = np.dtype(dtype)
    levels = tensor.detach().to("cpu", torch.float32).clamp(0, 1) * _white(dtype)
    if np.issubdtype(dtype, np.integer):
        levels = levels.round()
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy().astype(dtype))


def to_eight_bits(array: ImageArray) -> npt.NDArray[np.uint8]:
    """Round uint16 levels to uint8, mapping white to white; arrays of other dtypes are returned unchanged."""
    # 65535 = 257 * 255
    return np.round(array / 257).astype(np.uint8) if array.dtype.newbyteorder("=") == np.uint16 else array


def write_image(path: str | Path, image: ImageArray | Image.Image) -> None:
    """Write an image, completely or not at all.

    Args:
        path: the file to write; its suffix determines the format.
        image: uint8 (H, W), (H, W, 2|3|4), uint16 (H, W), or a Pillow image.

    Raises:
        OSError: the folder is missing or the disk is full.
        ValueError: the suffix is not one of a known format.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    format = Image.registered_extensions().get(Path(path).suffix.lower())
    if format is None:
        raise ValueError(f"unknown file extension: {Path(path).suffix}")
    encoded = io.BytesIO()  # some of Pillow's encoders never return when a write fails
    picture.save(encoded, format)
    with atomic_write(path) as file:
        file.write(encoded.getbuffer())


def find_images(paths: Iterable[Source], recursive: bool = False) -> list[Source]:
    """List the images among files and folders, in the order given, folders sorted by name.

    Args:
        paths: files and `"skimage:NAME"` sources, which are not opened, and folders, searched by suffix.
        recursive: also search subfolders.

    Returns:
        Sources for `read_image`; a file found twice, by any paths, is listed once.

    Raises:
        ImageError: a folder holds no image, or a folder can't be read.
    """
    found: dict[Source, Source] = {}
    for path in paths:
        if str(path).startswith(SKIMAGE_PREFIX):
            found.setdefault(path, path)
            continue
        if not os.path.isdir(path):
            found.setdefault(os.path.realpath(path), path)
            continue
        inside = _files(Path(path), recursive)
        images = sorted(p for p in inside if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not images:
            raise ImageError(f"the folder {path} holds no image ({', '.join(sorted(SUFFIXES))})")
        for image in images:
            found.setdefault(os.path.realpath(image), image)
    return list(found.values())


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    try:
        for where, folders, names in os.walk(folder, onerror=_fail):
            if not recursive:
                folders.clear()
            yield from (Path(where, name) for name in names)
    except OSError as error:
        raise ImageError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _fail(error: OSError) -> None:
    raise error


def source_name(source: Source) -> str:
    """Name an image for a table or an output file: the file's name without its suffix."""
    text = str(source)
    return text.removeprefix(SKIMAGE_PREFIX) if text.startswith(SKIMAGE_PREFIX) else Path(text).stem


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Open an image file without decoding it; errors of Pillow here and in the block become an `ImageError`."""
    path = locate(source)
    if not os.path.isfile(path):  # unlike Path's methods, these return False for invalid names
        fault = "it is a folder" if os.path.isdir(path) else "there is no such file"
        raise ImageError(f"cannot read {source}: {fault}")
    if path.stat().st_size == 0:
        raise ImageError(f"cannot read {source}: the file is empty")
    try:
        # Pass an open file: given a path, Pillow maps uncompressed pixels into memory and scrambles rotated TIFFs.
        with _BoundedReader(path) as file, open_image(file) as image:
            _refuse_what_is_misread(image)
            yield image
    except Image.UnidentifiedImageError:
        raise ImageError(f"cannot read {source}: it is not an image of a known format") from None
    except MemoryError as error:
        raise ImageError(f"cannot read {source}: there is not enough memory for a photo of its size") from error
    except Exception as error:  # decoders of damaged files raise whatever they like
        raise ImageError(f"cannot read {source}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the reason of an error; the sentences of our own are kept whole."""
    return str(error) if isinstance(error, ImageError) else reason(error)


class _BoundedReader(io.BufferedReader):
    """Limits reads to the file's size, because Python allocates as many bytes as a damaged header asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        rest = max(0, self._size - self.tell())
        return super().read(rest if size is None or size < 0 else min(size, rest))


def _refuse_what_is_misread(image: Image.Image) -> None:
    """Refuse TIFFs of 32-bit integers, whose white level is unknown, and a layout that Pillow misreads as 8 bits.

    That layout is uncompressed 16-bit TIFF with one plane per colour.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    if bits == 32 and image.mode.startswith("I"):
        raise ImageError("its pixels are 32-bit integers of unknown range: convert it to 16 bits")
    deep = bits > 8
    planar = image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    uncompressed = image.tag_v2.get(TiffImagePlugin.COMPRESSION, 1) == 1
    if deep and planar and uncompressed and image.mode != "I;16":
        raise ImageError(
            "it stores 16-bit colours uncompressed in separate planes, which Pillow cannot read: save it in another way"
        )


def decoded(image: Image.Image) -> Image.Image:
    """Decode an opened image, turn it upright, and invert it if its 0 means white."""
    image.load()
    return upright(_positive(image))


def upright(image: Image.Image) -> Image.Image:
    """Turn an image according to its EXIF orientation, and remove the tag (unless the EXIF block is damaged)."""
    try:
        return ImageOps.exif_transpose(image)
    except EXIF_ERRORS:  # the pixels are intact
        turn = _TURNS.get(orientation(image))
        return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 if it is missing or invalid.

    Pillow turns a TIFF while decoding it; its orientation is 1 from then on.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except EXIF_ERRORS:
        return 1
    return int(value) if value in range(2, 9) else 1


def _positive(image: Image.Image) -> Image.Image:
    """Invert 16-bit gray whose 0 is white; Pillow does this for 8 bits only."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.mode.startswith("I;16"):
        return image
    if image.tag_v2.get(_PHOTOMETRIC) != 0 or image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) != (16,):
        return image
    return Image.fromarray(65535 - np.asarray(image).astype(np.uint16))


def locate(source: Source) -> Path:
    """Find a source's file.

    Raises:
        ImageError: scikit-image does not have a photograph of that name.
    """
    text = str(source)
    if not text.startswith(SKIMAGE_PREFIX):
        return Path(source)
    name = text.removeprefix(SKIMAGE_PREFIX)
    # Found without importing scikit-image, which is slow.
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise ImageError(f"cannot read {source}: scikit-image is not installed (pip install 'mrda-kernels[demo]')")
    folder = Path(package.submodule_search_locations[0]) / "data"
    matches = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES}
    if name not in matches:
        raise ImageError(f"cannot read {source}: scikit-image has no such image; choose from {', '.join(matches)}")
    return matches[name]


def _white(dtype: np.dtype[Any]) -> int:
    if dtype.newbyteorder("=") in (np.uint8, np.uint16):
        return int(np.iinfo(dtype).max)
    if np.issubdtype(dtype, np.floating):
        return 1
    raise TypeError(f"an image has dtype {dtype}, but must be uint8, uint16 or floating point")
