# SPDX-License-Identifier: Apache-2.0
"""Extracts one folder from an untrusted archive."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

from mrda.core.progress import Progress
from mrda.data.fetch import DownloadError
from mrda.data.folders import whole_folder

# Raised by the standard library for damaged or encrypted archives.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)


class _Member(NamedTuple):
    """A file of an archive; ``plain`` if it is not a link, device or the like."""

    name: str
    size: int
    plain: bool
    info: tarfile.TarInfo | zipfile.ZipInfo


def extract(archive: Path, folder: str, target: Path, progress: Progress) -> int:
    """Write the files below one folder of a zip or tar file into a new folder, completely or not at all.

    Args:
        archive: the file.
        folder: the folder inside, such as ``"benchmark/Set5/HR"``.
        target: the folder to make.
        progress: receives bytes.

    Returns:
        The number of files written.

    Raises:
        DownloadError: the archive is damaged, has no such folder, or has an unsafe member: one that would be written
            elsewhere, or a link or device in the folder; or the disk has too little space.
        OSError: a file can't be written, or ``target`` exists already.
    """
    try:
        with _open(archive) as opened:
            return _extract(opened, archive, PurePosixPath(folder), target, progress)
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0].rstrip(":") or "it ends too early"
        raise DownloadError(f"{archive} can't be unpacked: {reason}") from None


def _open(archive: Path) -> tarfile.TarFile | zipfile.ZipFile:
    if archive.suffix == ".zip":
        return zipfile.ZipFile(archive)
    if archive.suffix == ".gz":  # tarfile would take damage in the middle for the end
        with gzip.open(archive) as whole:
            while whole.read(1 << 20):
                pass
    return tarfile.open(archive)


def _extract(
    opened: tarfile.TarFile | zipfile.ZipFile, archive: Path, folder: PurePosixPath, target: Path, progress: Progress
) -> int:
    places = {}
    for member in _members(opened):
        place = _place(member, folder, archive)
        if place is not None:
            places[place] = member
    if not places:
        raise DownloadError(f"{archive} holds no files in its folder {folder}")
    total = sum(member.size for member in places.values())
    free = shutil.disk_usage(archive.parent).free
    if free < total:
        raise DownloadError(f"{target.parent} has {free / 1e9:.1f} GB free, but {total / 1e9:.1f} GB are needed")
    with whole_folder(target) as temporary, progress.task(f"unpacking {target.name}", total) as task:
        for place, member in places.items():
            path = temporary / place
            path.parent.mkdir(parents=True, exist_ok=True)
            with _read(opened, member) as source, open(path, "xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            if path.stat().st_size != member.size:
                raise DownloadError(
                    f"{archive} can't be unpacked: {member.name} does not have the size that the archive lists"
                )
            task.advance(member.size)
    return len(places)


def _members(opened: tarfile.TarFile | zipfile.ZipFile) -> Iterator[_Member]:
    if isinstance(opened, tarfile.TarFile):
        for entry in opened:
            if not entry.isdir():
                yield _Member(entry.name, entry.size, entry.isreg(), entry)
        return
    for info in opened.infolist():
        if not info.is_dir():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive was written without Unix modes
            yield _Member(info.filename, info.file_size, kind in (0, stat.S_IFREG), info)


def _place(member: _Member, folder: PurePosixPath, archive: Path) -> Path | None:
    """Return the path of a member relative to the target; None if it is outside the folder."""
    name, on_windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    inside = folder in name.parents
    if on_windows.anchor or ".." in on_windows.parts or (inside and not member.plain):
        raise DownloadError(f"{archive} holds the member {member.name!r}, which is unsafe to unpack")
    return Path(name.relative_to(folder)) if inside else None


def _read(opened: tarfile.TarFile | zipfile.ZipFile, member: _Member) -> IO[bytes]:
    if isinstance(member.info, zipfile.ZipInfo):
        assert isinstance(opened, zipfile.ZipFile)
        return opened.open(member.info)
    assert isinstance(opened, tarfile.TarFile)
    source = opened.extractfile(member.info)
    assert source is not None  # None only for members that are not plain files
    return source
