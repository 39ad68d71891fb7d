"""Downloads of one file: resumed where they broke off, and checked before they get their name.

Beside ``FILE`` there is ``FILE.part`` while it is incomplete, and ``FILE.part.json`` with what tells one version of the
remote file from another.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mrda.core.files import write_text

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, the bytes done and the bytes in total, where they are known."""

_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


class DownloadError(ValueError):
    """A file can't be had; the message is one sentence."""


@dataclass(frozen=True)
class _Version:
    """What a server says of a file, as far as it says it."""

    url: str
    etag: str | None
    modified: str | None
    size: int | None

    def same_file(self, other: _Version) -> bool:
        """Whether nothing that both know speaks against it."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified), (self.size, other.size))
        return self.url == other.url and all(None in pair or pair[0] == pair[1] for pair in pairs)


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None,
    md5: str | None,
    progress: Progress,
    spare: Callable[[int], int] = lambda size: 0,
) -> str:
    """Download a file, or go on with it; nothing is named ``path`` before its checksums are right.

    A connection that breaks is taken up again as long as each brings something. Where the server knows no ranges, or
    has another version of the file than the last time, it starts over.

    Args:
        url: of the file.
        path: where it goes; the folder must exist.
        sha256: what it must have, if known.
        md5: likewise.
        progress: see `Progress`.
        spare: bytes that must be free on the disk besides the file, by its size.

    Returns:
        The SHA-256 of the file.

    Raises:
        DownloadError: no connection, a refusal, a wrong checksum, or too little room on the disk; what has arrived is
            kept for the next time, unless the checksum is wrong.
        OSError: the file can't be written.
    """
    part, note = _beside(path)
    while True:
        before = _size(part)
        try:
            complete = _continue(url, part, note, progress, spare)
        except urllib.error.HTTPError as error:
            raise DownloadError(f"cannot download {url}: the server answered {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise DownloadError(_unreachable(url, error.reason)) from None
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            if _size(part) <= before:
                raise DownloadError(_unreachable(url, error)) from None
            complete = False
        if complete:
            break
        if _size(part) <= before:
            raise DownloadError(
                f"the download of {url} broke off after {_size(part):,} bytes: run the command again to go on"
            )
    found = digest(part, ("sha256", "md5") if md5 else ("sha256",), progress)
    for kind, wanted in (("sha256", sha256), ("md5", md5)):
        if wanted is not None and found[kind] != wanted:
            discard(path)
            raise DownloadError(f"{url} has {kind.upper()} {found[kind]} in place of {wanted}, so it was thrown away")
    os.replace(part, path)
    note.unlink(missing_ok=True)
    return found["sha256"]


def digest(path: Path, kinds: tuple[str, ...], progress: Progress) -> dict[str, str]:
    """Checksums of a file, by the names that hashlib has for them."""
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    total, done = path.stat().st_size, 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            for one in hashes.values():
                one.update(chunk)
            done += len(chunk)
            progress(f"checking {path.name.removesuffix('.part')}", done, total)
    return {kind: one.hexdigest() for kind, one in hashes.items()}


def discard(path: Path) -> None:
    """Remove what an unfinished download of ``path`` has left."""
    for leftover in _beside(path):
        leftover.unlink(missing_ok=True)


def _continue(url: str, part: Path, note: Path, progress: Progress, spare: Callable[[int], int]) -> bool:
    """One connection: append to ``part`` or begin it anew; returns whether it is complete, as far as one can tell."""
    start, known = _size(part), _read_note(note)
    if known is None or known.url != url:
        start = 0
    elif start and known.size == start:
        return True  # it was complete, only never checked
    headers = {"User-Agent": "mrda", "Accept-Encoding": "identity"}
    if start and known is not None:
        headers["Range"] = f"bytes={start}-"
        validator = known.etag if known.etag and not known.etag.startswith("W/") else known.modified
        if validator is not None:
            headers["If-Range"] = validator
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        error.close()
        note.unlink(missing_ok=True)
        return _continue(url, part, note, progress, spare)
    with response:
        partial = response.status == http.client.PARTIAL_CONTENT
        version = _version(url, response, start if partial else 0)
        if partial and (known is None or not known.same_file(version) or _range_start(response) != start):
            response.close()
            note.unlink(missing_ok=True)
            return _continue(url, part, note, progress, spare)
        start = start if partial else 0
        if version.size is not None:
            _check_room(part.parent, version.size - start + spare(version.size))
        if not partial:
            part.unlink(missing_ok=True)  # before the note, which must not tell of another version's bytes
        write_text(note, json.dumps(asdict(version)))
        done = start
        with open(part, "ab") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                done += len(chunk)
                progress(f"downloading {part.name.removesuffix('.part')}", done, version.size)
    return version.size is None or done == version.size


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read1(_CHUNK):  # what has come in, so that a broken connection costs nothing
        yield chunk


def _version(url: str, response: http.client.HTTPResponse, start: int) -> _Version:
    length = response.headers.get("Content-Length")
    return _Version(
        url=url,
        etag=response.headers.get("ETag"),
        modified=response.headers.get("Last-Modified"),
        size=start + int(length) if length is not None and length.isdecimal() else None,
    )


def _range_start(response: http.client.HTTPResponse) -> int | None:
    """Where the content begins, by ``Content-Range: bytes START-END/TOTAL``."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None


def _read_note(note: Path) -> _Version | None:
    """What is known of the beginning of a download; None where nothing is, or the note is damaged."""
    try:
        return _Version(**json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(f"{folder} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed")


def _unreachable(url: str, reason: object) -> str:
    why = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return f"cannot reach {urlsplit(url).netloc} for {url}: {why}; is this machine online?"


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
