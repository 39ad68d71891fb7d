# SPDX-License-Identifier: Apache-2.0
"""Weights that others publish: found in the user's files or torch's cache, and checked by a SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mrda.networks.official import read_official


class PublishedFile(NamedTuple):
    """A file of weights that this package may not ship."""

    what: str
    """Name of its content, to begin a sentence with."""
    name: str
    """Published name of the file."""
    url: str
    sha256: str
    """First 8 of the 64 digits of its SHA-256, as in torch's file names."""
    tensors: str | None = None
    """First 16 digits of `digest` of the tensors that are used, by which a file in another format is recognised."""
    used: str = ""
    """Beginning of the keys of these tensors."""


def cache_folder() -> Path:
    """Return torch's folder of weights: ``hub/checkpoints`` in TORCH_HOME, or in ~/.cache/torch without it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_published(
    file: PublishedFile, path: str | os.PathLike[str] | None = None, *, also: Iterable[Path] = (), otherwise: str
) -> Path:
    """Find a published file and verify its checksum, or that of the tensors in it.

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
            found_digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{found} cannot be read: {error.strerror}") from error
    if not (found_digest.startswith(file.sha256) or _has_the_tensors(found, file)):
        raise ValueError(
            f"{found} is damaged or another file than {file.url}: its SHA-256 begins with "
            f"{found_digest[: len(file.sha256)]}, but must begin with {file.sha256}"
        )
    return found


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: of each key in order, its shape, and its values in float32, little-endian."""
    found = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        found.update(f"{key} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes())
    return found.hexdigest()


def _has_the_tensors(path: Path, file: PublishedFile) -> bool:
    if file.tensors is None:
        return False
    try:
        state = read_official(path)
    except ValueError:
        return False
    used = {key: tensor for key, tensor in state.items() if key.startswith(file.used)}
    return digest(used).startswith(file.tensors)
