"""Weights that others publish: found where the user or torch's cache has them, and checked by their SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch


class PublishedFile(NamedTuple):
    """A file of weights that nothing here may ship."""

    what: str
    """What it holds, at the beginning of a sentence."""
    name: str
    """The file's name where it is published."""
    url: str
    sha256: str
    """The first digits of its SHA-256, as file names hold them: 8 of 64."""


def cache_folder() -> Path:
    """Where torch keeps weights: ``hub/checkpoints`` in the folder that TORCH_HOME names, else in ~/.cache/torch."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_published(
    file: PublishedFile, path: str | os.PathLike[str] | None = None, *, also: Iterable[Path] = (), otherwise: str
) -> Path:
    """Return where a published file is, once its checksum is right.

    Args:
        file: The file.
        path: Where it is, under whatever name; None looks for its published name in :func:`cache_folder`.
        also: Further places to look at where ``path`` is None.
        otherwise: What to do instead of getting the file, for the message: "or give its path".

    Raises:
        ValueError: The file is not there, cannot be read, or is another one.
    """
    cached = cache_folder() / file.name
    places = [cached, *also] if path is None else [Path(path)]
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None and path is None:
        raise ValueError(
            f"{file.what} need the file {file.name}, which is not in {cached.parent}: "
            f"download {file.url} into that folder, {otherwise}"
        )
    if found is None:
        raise ValueError(f"{file.what} need the file {file.name} of {file.url}, but there is no file {path}")
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
