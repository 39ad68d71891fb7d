# SPDX-License-Identifier: Apache-2.0
"""Downloads of single files by pooch, which checks them before they get their name.

pooch itself does not resume downloads, so `_ResumingDownloader` collects the bytes in ``FILE.part``. The checksum is
what makes that safe: if the remote file has changed in between, the sum of both parts is wrong, and the download
starts over. Files without a published checksum are always downloaded in one go.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from mrda.core.progress import Progress, Task

_CHUNK = 1 << 16
_TIMEOUT = 60  # seconds without a byte

pooch.get_logger().setLevel("ERROR")  # the caller's messages say what happens


class DownloadError(ValueError):
    """A file can't be downloaded; the message is one sentence."""


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None,
    md5: str | None,
    progress: Progress,
    spare: Callable[[int], int] = lambda size: 0,
) -> str:
    """Download a file unless it is there; nothing is named ``path`` before its checksum is right.

    A connection that breaks is resumed as long as each new one brings something. What has arrived is kept for the
    next call.

    Args:
        url: address of the file.
        path: the file to write; its folder must exist. If it is there with the right checksum, nothing is downloaded.
        sha256: expected SHA-256, if known.
        md5: expected MD5, if known; used only if the SHA-256 is not known.
        progress: receives bytes.
        spare: bytes that must be free on the disk besides the file, given its size.

    Returns:
        The SHA-256 of the file.

    Raises:
        DownloadError: no connection, a refusal, a wrong checksum, or too little space on the disk.
        OSError: the file can't be written.
    """
    known = f"sha256:{sha256}" if sha256 else f"md5:{md5}" if md5 else None
    downloader = _ResumingDownloader(path, progress, spare, resume=known is not None)
    if known is None:
        path.unlink(missing_ok=True)  # it could be anything
    while True:
        before = _size(downloader.part)
        try:
            with downloader.shown:
                downloader.show("checking", None)
                pooch.retrieve(url, known, fname=path.name, path=path.parent, downloader=downloader)
        except requests.HTTPError as error:
            raise DownloadError(f"cannot download {url}: the server answered {_status(error)}") from None
        except requests.RequestException as error:
            after = _size(downloader.part)
            if after > before:
                continue
            if after:
                again = "resume it" if known else "start over"
                raise DownloadError(
                    f"the download of {url} broke off after {after:,} bytes: run the command again to {again}"
                ) from None
            raise DownloadError(_unreachable(url, error)) from None
        except DownloadError:
            raise
        except ValueError:  # pooch found a wrong checksum and deleted the file
            if downloader.resumed:  # the first part may be that of an older version
                continue
            raise DownloadError(f"{url} does not have the published checksum {known}, so it was deleted") from None
        return sha256 or str(pooch.file_hash(str(path), alg="sha256"))


class _ResumingDownloader:
    """Downloads for pooch, continuing ``FILE.part`` where there is one and the server can."""

    def __init__(self, path: Path, progress: Progress, spare: Callable[[int], int], *, resume: bool) -> None:
        self.name, self.part = path.name, path.with_name(f"{path.name}.part")
        self.progress, self.spare, self.resume = progress, spare, resume
        self.resumed = False
        self.shown = ExitStack()

    def show(self, action: str, total: int | None) -> Task:
        """Show a task in place of the one before."""
        self.shown.close()
        return self.shown.enter_context(self.progress.task(f"{action} {self.name}", total))

    def __call__(self, url: str, output_file: str, _: pooch.Pooch | None) -> None:
        """Download `url` into `output_file`."""
        start = _size(self.part) if self.resume else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            complete = start > 0 and answer.status_code == requests.codes.requested_range_not_satisfiable
            self.resumed = complete or answer.status_code == requests.codes.partial_content
            if not complete:
                answer.raise_for_status()
                self._receive(answer, start if self.resumed else 0)
        os.replace(self.part, output_file)
        self.show("checking", None)

    def _receive(self, answer: requests.Response, start: int) -> None:
        """Write what the server sends behind the first `start` bytes."""
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if total is not None:
            _check_room(self.part.parent, total - start + self.spare(total))
        task = self.show("downloading", total)
        task.advance(start)
        with open(self.part, "ab" if start else "wb") as file:
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                task.advance(len(chunk))


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(f"{folder} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed")


def _unreachable(url: str, error: requests.RequestException) -> str:
    """Say that there is no connection, with the innermost reason that the system gave."""
    reason: BaseException = error
    while (inner := reason.__cause__ or reason.__context__) is not None:
        reason = inner
    why = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return f"cannot reach {urlsplit(url).netloc} for {url}: {why}; is this machine online?"


def _status(error: requests.HTTPError) -> str:
    answer = error.response
    return "" if answer is None else f"{answer.status_code} {answer.reason}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
