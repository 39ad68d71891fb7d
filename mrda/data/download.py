# SPDX-License-Identifier: Apache-2.0
"""Downloads, verifies and unpacks a photo set."""

from __future__ import annotations

import logging
from collections.abc import Container
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mrda.core.progress import Progress
from mrda.data.datasets import Archive, Dataset
from mrda.data.extract import extract
from mrda.data.fetch import DownloadError, fetch

_log = logging.getLogger(__name__)


def download(dataset: Dataset, folder: Path, *, progress: Progress, keep: Container[str] = ()) -> Path:
    """Make the folder ``folder/NAME`` with a set's photos; it appears whole or not at all.

    Args:
        dataset: one of `mrda.data.datasets.DATASETS`.
        folder: the folder above; made if missing. An archive that is there already is used if its checksum is right.
        progress: receives bytes.
        keep: URLs of archives that stay in ``folder``, because other sets are in them too.

    Returns:
        The folder with the photos.

    Raises:
        DownloadError: none of the set's archives can be downloaded and unpacked.
        OSError: a file can't be written.
    """
    target = folder / dataset.name
    if target.exists():
        _log.warning("%s is there already", target)
        return target
    if not dataset.archives:
        raise DownloadError(f"{dataset.name} must be requested from its owners, see {dataset.home}")
    folder.mkdir(parents=True, exist_ok=True)
    failure: DownloadError | None = None
    for archive in dataset.archives:
        if failure is not None:
            _log.warning("%s; trying %s", failure, archive.url)
        try:
            file = _archive(archive, folder, progress)
            count = extract(file, archive.folder, target, progress)
        except DownloadError as error:
            failure = error
            continue
        if archive.url not in keep:
            file.unlink()
        if count != dataset.pictures:
            _log.warning("%s has %d files, but %s has %d pictures", target, count, dataset.name, dataset.pictures)
        return target
    assert failure is not None
    raise failure


def _archive(archive: Archive, folder: Path, progress: Progress) -> Path:
    """Return the archive in ``folder``, downloaded unless it is there."""
    path = folder / unquote(urlsplit(archive.url).path.rsplit("/", 1)[-1])
    found = fetch(
        archive.url,
        path,
        sha256=archive.sha256,
        md5=archive.md5,
        progress=progress,
        spare=lambda size: size,  # photos are hardly smaller in an archive than beside it
    )
    if archive.sha256 is None and archive.md5 is None:
        _log.warning(
            "no checksum is published for %s, so it could not be verified; its SHA-256 is %s", archive.url, found
        )
    return path
