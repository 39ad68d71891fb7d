# SPDX-License-Identifier: Apache-2.0
"""Names of photos: paths, and photographs of the scikit-image wheel."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy.typing as npt

Source = str | Path
"""A path, or `"skimage:NAME"` for a photograph in the scikit-image wheel."""

ImageArray = npt.NDArray[Any]

SKIMAGE_PREFIX = "skimage:"
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_HEIC = HEIC_SUFFIXES if importlib.util.find_spec("pi_heif") else frozenset()
SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx",
     ".pam", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp", *_HEIC}
)  # fmt: skip
"""Suffixes of the photographs in a folder. A file that is named itself may have any suffix."""


class ImageError(ValueError):
    """An image could not be read; the message is one sentence that names the file."""


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
        raise ImageError(f"cannot read {source}: scikit-image is not installed (pip install './mrda[demo]')")
    folder = Path(package.submodule_search_locations[0]) / "data"
    matches = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES}
    if name not in matches:
        raise ImageError(f"cannot read {source}: scikit-image has no such image; choose from {', '.join(matches)}")
    return matches[name]
