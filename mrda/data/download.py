"""Gets a photo set: download, check, unpack."""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mrda.data.datasets import Archive, Dataset
from mrda.data.extract import extract
from mrda.data.fetch import DownloadError, Progress, digest, fetch


def download(
    dataset: Dataset, folder: Path, *, progress: Progress, tell: Callable[[str], None], keep: Container[str] = ()
) -> Path:
    """Make the folder ``folder/NAME`` with a set's photos; it appears whole or not at all.

    Args:
        dataset: one of `mrda.data.datasets.DATASETS`.
        folder: where it goes; made if missing. An archive that is there already is used where its checksum is right.
        progress: see `mrda.data.fetch.Progress`.
        tell: takes a sentence that a person should see.
        keep: URLs of archives that stay in ``folder``, for further sets in them.

    Returns:
        The folder with the photos.

    Raises:
        DownloadError: none of the set's archives can be had or unpacked.
        OSError: a file can't be written.
    """
    target = folder / dataset.name
    if target.exists():
        tell(f"{target} is there already")
        return target
    if not dataset.archives:
        raise DownloadError(f"{dataset.name} can't be downloaded without asking its owners: see {dataset.home}")
    folder.mkdir(parents=True, exist_ok=True)
    failure: DownloadError | None = None
    for archive in dataset.archives:
        if failure is not None:
            tell(f"{failure}; trying {archive.url}")
        try:
            file = _archive(archive, folder, progress, tell)
            count = extract(file, archive.folder, target, progress)
        except DownloadError as error:
            failure = error
            continue
        if archive.url not in keep:
            file.unlink()
        if count != dataset.pictures:
            tell(f"{target} has {count} files, but {dataset.name} has {dataset.pictures} pictures")
        return target
    assert failure is not None
    raise failure


def _archive(archive: Archive, folder: Path, progress: Progress, tell: Callable[[str], None]) -> Path:
    """Return the archive in ``folder``, downloaded where it is not there."""
    path = folder / unquote(urlsplit(archive.url).path.rsplit("/", 1)[-1])
    wanted = {kind: value for kind, value in (("sha256", archive.sha256), ("md5", archive.md5)) if value is not None}
    if path.exists() and wanted and digest(path, tuple(wanted), progress) == wanted:
        return path
    found = fetch(
        archive.url,
        path,
        sha256=archive.sha256,
        md5=archive.md5,
        progress=progress,
        spare=lambda size: size,  # photos are hardly smaller in an archive than beside it
    )
    if not wanted:
        tell(f"no checksum is published for {archive.url}, so it was not checked; its SHA-256 is {found}")
    return path
