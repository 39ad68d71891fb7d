import hashlib
import json
import os
import socket
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from server import Site, serving

from mrda.data.fetch import DownloadError, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as site:
        site.files["/a.zip"] = CONTENT
        yield site


class Download:
    """Calls `fetch` for one file and keeps what it was told."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.url = f"{site.url}/a.zip"
        self.path = folder / "a.zip"
        self.told: list[tuple[str, int, int | None]] = []

    def __call__(self, content: bytes | None = CONTENT, **options: object) -> str:
        checksums = {"sha256": None if content is None else sha256(content), "md5": None, **options}
        return fetch(self.url, self.path, progress=lambda *told: self.told.append(told), **checksums)  # type: ignore[arg-type]

    def broken_off(self, site: Site, at: int) -> None:
        """Leave the first bytes of a download that then found no server."""
        files, site.cuts = site.files, [at]
        with pytest.raises(DownloadError):
            self._with_one_connection(site)
        site.files, site.cuts = files, []
        assert self.part.stat().st_size == at
        assert not self.path.exists()
        site.requests.clear()
        site.answers.clear()

    def _with_one_connection(self, site: Site) -> None:
        def stop(what: str, done: int, total: int | None) -> None:
            site.files = {}  # the next connection is answered with 404

        fetch(self.url, self.path, sha256=None, md5=None, progress=stop)

    @property
    def part(self) -> Path:
        return self.path.with_name("a.zip.part")


@pytest.fixture
def download(site: Site, tmp_path: Path) -> Download:
    return Download(site, tmp_path)


def assert_done(download: Download, content: bytes = CONTENT) -> None:
    assert download.path.read_bytes() == content
    assert os.listdir(download.path.parent) == ["a.zip"]


def test_a_file_arrives_checked_and_leaves_nothing_else(download: Download, site: Site) -> None:
    assert download(md5=hashlib.md5(CONTENT).hexdigest()) == sha256(CONTENT)
    assert_done(download)
    assert site.requests == [None]
    loading = [told for told in download.told if told[0] == "downloading a.zip"]
    assert loading[-1] == ("downloading a.zip", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in loading] == sorted(done for _, done, _ in loading)
    assert download.told[-1] == ("checking a.zip", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"', None])
@pytest.mark.parametrize("modified", ["Tue, 14 Feb 2017 14:27:11 GMT", None])
def test_a_broken_download_goes_on(download: Download, site: Site, etag: str | None, modified: str | None) -> None:
    site.etag, site.modified = etag, modified
    download.broken_off(site, 1000)
    download()
    assert_done(download)
    assert site.requests == ["bytes=1000-"]
    assert site.answers == [206]


def test_a_connection_that_breaks_is_taken_up_again(download: Download, site: Site) -> None:
    site.cuts = [100, 1, 200_000]
    download()
    assert_done(download)
    assert site.requests == [None, "bytes=100-", "bytes=101-", "bytes=200101-"]


def test_a_connection_that_brings_nothing_is_given_up(download: Download, site: Site) -> None:
    site.cuts = [100, 0]
    with pytest.raises(DownloadError, match=r"broke off after 100 bytes: run the command again to go on"):
        download()
    assert not download.path.exists()
    download()
    assert_done(download)


def test_a_server_without_ranges_starts_over(download: Download, site: Site) -> None:
    download.broken_off(site, 1000)
    site.ranges = False
    download()
    assert_done(download)
    assert site.answers == [200]


def test_another_part_than_asked_for_is_not_appended(download: Download, site: Site) -> None:
    site.etag = None
    download.broken_off(site, 1000)
    site.deaf = site.length = True
    note = download.part.with_name("a.zip.part.json")
    note.write_text(json.dumps({"url": download.url, "etag": None, "modified": None, "size": None}))
    download()
    assert_done(download)
    assert site.answers == [206, 200]


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("what", ["etag", "modified", "size"])
def test_a_changed_file_starts_over(download: Download, site: Site, honest: bool, what: str) -> None:
    site.honest = honest
    site.etag = '"one"' if what == "etag" else None
    site.modified = "Tue, 14 Feb 2017 14:27:11 GMT" if what == "modified" else None
    download.broken_off(site, 1000)
    other = OTHER + b"more" if what == "size" else OTHER
    site.files["/a.zip"] = other
    if what != "size":
        setattr(site, what, '"two"' if what == "etag" else "Wed, 15 Feb 2017 14:27:11 GMT")
    assert download(None) == sha256(other)
    assert_done(download, other)
    # An honest server says at once that the file has changed, where it gave something to tell by.
    assert site.answers == ([200] if honest and what != "size" else [206, 200])


def test_a_file_that_became_shorter_starts_over(download: Download, site: Site) -> None:
    site.etag = None
    download.broken_off(site, 1000)
    site.files["/a.zip"] = OTHER[:500]
    download(OTHER[:500])
    assert_done(download, OTHER[:500])


def test_another_address_starts_over(download: Download, site: Site) -> None:
    download.broken_off(site, 1000)
    site.files["/b.zip"] = OTHER
    download.url = f"{site.url}/b.zip"
    download(OTHER)
    assert_done(download, OTHER)
    assert site.requests == [None]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": 1}', None])
def test_bytes_of_unknown_origin_are_not_built_on(download: Download, site: Site, note: str | None) -> None:
    download.part.write_bytes(b"something else")
    if note is not None:
        download.part.with_name("a.zip.part.json").write_text(note)
    download()
    assert_done(download)


def test_what_was_complete_but_not_yet_checked_is_not_loaded_again(download: Download, site: Site) -> None:
    download.part.write_bytes(CONTENT)
    note = {"url": download.url, "etag": '"one"', "modified": None, "size": len(CONTENT)}
    download.part.with_name("a.zip.part.json").write_text(json.dumps(note))
    download()
    assert_done(download)
    assert site.requests == []


def test_the_note_never_tells_of_another_versions_bytes(
    download: Download, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    download.broken_off(site, 1000)
    site.etag, site.files["/a.zip"] = '"two"', OTHER

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mrda.data.fetch._chunks", killed)  # right after the note is written
    with pytest.raises(KeyboardInterrupt):
        download(None)
    monkeypatch.undo()
    download(None)
    assert_done(download, OTHER)


def test_a_server_that_tells_no_length(download: Download, site: Site) -> None:
    site.length = False
    download()
    assert_done(download)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_throws_the_file_away(download: Download, kind: str) -> None:
    found = hashlib.new(kind, CONTENT).hexdigest()
    with pytest.raises(
        DownloadError, match=rf"a\.zip has {kind.upper()} {found} in place of 1234, so it was thrown away"
    ):
        download(None, **{kind: "1234"})
    assert os.listdir(download.path.parent) == []


def test_a_missing_file(download: Download, site: Site) -> None:
    site.files.clear()
    with pytest.raises(DownloadError, match=rf"^cannot download {download.url}: the server answered 404 Not Found$"):
        download()
    assert os.listdir(download.path.parent) == []


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip"
        with pytest.raises(
            DownloadError, match=r"^cannot reach 127\.0\.0\.1:\d+ for .*refused; is this machine online\?$"
        ):
            fetch(url, tmp_path / "a.zip", sha256=None, md5=None, progress=lambda *_: None)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError) as caught:
        fetch("http://photos.example/a.zip", tmp_path / "a.zip", sha256=None, md5=None, progress=lambda *_: None)
    reason = "Name or service not known; is this machine online?"
    assert str(caught.value) == f"cannot reach photos.example for http://photos.example/a.zip: {reason}"


def test_a_server_that_hangs_up(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    download.url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.zip"

    class HangsUp:
        def __call__(self, *_: object, **__: object) -> None:
            raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("http.client.HTTPConnection.getresponse", HangsUp())
    with listener, pytest.raises(DownloadError, match="Connection reset by peer; is this machine online"):
        download()


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_told_before_anything_is_loaded(
    download: Download, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    download.broken_off(site, 100_000)
    rest = len(CONTENT) - 100_000
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, rest + 499))
    with pytest.raises(DownloadError, match=r"GB free, but .* GB are needed"):
        download(spare=lambda size: 500)
    assert download.part.stat().st_size == 100_000
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, rest + 500))
    download(spare=lambda size: 500)
    assert_done(download)
