# SPDX-License-Identifier: Apache-2.0
"""Weights that others publish: found in the user's files or torch's cache, and checked by their SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch


class PublishedFile(NamedTuple):
    """A file of weights that this package may not ship."""

    what: str
    """Name of its content, to begin a sentence with."""
    name: str
    """Published name of the file."""
    url: str
    sha256: str
    """First 8 of the 64 digits of its SHA-256, as in torch's file names."""


def cache_folder() -> Path:
    """Return torch's folder of weights: ``hub/checkpoints`` in TORCH_HOME, or in ~/.cache/torch without it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_published(
    file: PublishedFile, path: str | os.PathLike[str] | None = None, *, also: Iterable[Path] = (), otherwise: str
) -> Path:
    """Find a published file and verify its checksum.

    Args:
        file: The file.
        path: Its path, under any name; None looks for its published name in :func:`cache_folder`.
        also: Further paths to look at if ``path`` is None.
        otherwise: Alternative to getting the file, for the message, e.g. "or give its path".

    Raises:
        ValueError: The file is missing, cannot be read, or is another one.
    """
    cached = cache_folder() / file.name
    places = [cached, *also] if path is None else [Path(path)]
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None and path is None:
        raise ValueError(
            f"{file.what} require the file {file.name}, which is not in {cached.parent}: "
            f"download {file.url} into that folder, {otherwise}"
        )
    if found is None:
        raise ValueError(f"{file.what} require the file {file.name} from {file.url}, but {path} does not exist")
    try:
        with open(found, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{found} cannot be read: {error.strerror}") from error
    if not digest.startswith(file.sha256):
        raise ValueError(
            f"{found} is damaged or another file than {file.url}: its SHA-256 begins with "
            f"{digest[: len(file.sha256)]}, but must begin with {file.sha256}"
        )
    return found
