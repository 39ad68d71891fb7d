# SPDX-License-Identifier: Apache-2.0
"""Reads and writes images; all other modules use these functions to do so.

torch is imported where a tensor is made, because files are looked for before that.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mrda.core.files import atomic_write
from mrda.photo.kinds import left_out, no_image
from mrda.photo.reading import read_photo, read_size
from mrda.photo.source import SKIMAGE_PREFIX, SUFFIXES, ImageArray, ImageError, Source

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "SKIMAGE_PREFIX",
    "SUFFIXES",
    "ImageArray",
    "ImageError",
    "Source",
    "find_images",
    "read_image",
    "read_rgb",
    "read_size",
    "source_name",
    "to_array",
    "to_eight_bits",
    "to_tensor",
    "write_image",
]

_log = logging.getLogger(__name__)


def read_image(source: Source) -> Image.Image:
    """Read a photograph as a Pillow image, turned upright according to its EXIF orientation.

    Args:
        source: a path or `"skimage:NAME"`, e.g. `"skimage:astronaut"`.

    Returns:
        An image in mode L, LA, I;16, RGB or RGBA; 16-bit colours are reduced to 8 bits, because Pillow has no mode for
        them.

    Raises:
        ImageError: as `mrda.photo.reading.read_photo`.
    """
    pixels = read_photo(source).pixels
    return Image.fromarray(pixels if pixels.ndim == 2 else to_eight_bits(pixels))


def read_rgb(source: Source) -> ImageArray:
    """Read a photograph as RGB: gray is replicated, a palette is converted, alpha is dropped.

    Args:
        source: as for `read_image`.

    Returns:
        (H, W, 3), uint8, or uint16 for more than 8 bits per channel, see `mrda.photo.reading.read_photo`.

    Raises:
        ImageError: as `read_image`.
    """
    array = read_photo(source).pixels
    if array.ndim == 2:
        return np.stack([array] * 3, axis=-1)
    if array.shape[2] == 2:
        return np.repeat(array[..., :1], 3, axis=-1)
    return np.ascontiguousarray(array[..., :3])


def to_tensor(array: ImageArray) -> Tensor:
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
    import torch

    values = np.atleast_3d(array).astype(np.float32) / np.float32(_white(array.dtype))
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))


def to_array(tensor: Tensor, dtype: npt.DTypeLike = np.uint8) -> ImageArray:
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
    import torch

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
        inside = list(_files(Path(path), recursive))
        images = sorted(p for p in inside if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not images:
            raise ImageError(no_image(path, inside))
        if told := left_out(inside):
            _log.warning("%s: %s", path, told)
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


def _white(dtype: np.dtype[Any]) -> int:
    if dtype.newbyteorder("=") in (np.uint8, np.uint16):
        return int(np.iinfo(dtype).max)
    if np.issubdtype(dtype, np.floating):
        return 1
    raise TypeError(f"an image has dtype {dtype}, but must be uint8, uint16 or floating point")
