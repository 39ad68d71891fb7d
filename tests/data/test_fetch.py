import hashlib
import os
import socket
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recorder import Recorder
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
    """Calls `fetch` for one file and records its progress."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.url = f"{site.url}/a.zip"
        self.path = folder / "a.zip"
        self.part = folder / "a.zip.part"
        self.progress = Recorder()

    def __call__(self, content: bytes | None = CONTENT, **options: object) -> str:
        checksums = {"sha256": None if content is None else sha256(content), "md5": None, **options}
        return fetch(self.url, self.path, progress=self.progress, **checksums)  # type: ignore[arg-type]

    def broken_off(self, site: Site, at: int) -> None:
        """Leave the first bytes of a download that then found no server."""
        site.cuts = [at, 0]
        with pytest.raises(DownloadError, match=r"broke off after .* bytes: run the command again to resume it"):
            self()
        assert 0 < self.part.stat().st_size <= at
        assert not self.path.exists()
        site.requests.clear()
        site.answers.clear()
        site.cuts.clear()


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
    loading = [told for told in download.progress.told if told[0] == "downloading a.zip"]
    assert loading[-1] == ("downloading a.zip", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in loading] == sorted(done for _, done, _ in loading)
    assert download.progress.told[-1][0] == "checking a.zip"


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_broken_download_goes_on(download: Download, site: Site, kind: str) -> None:
    download.broken_off(site, 200_000)
    start = download.part.stat().st_size
    checksum = {kind: hashlib.new(kind, CONTENT).hexdigest()}
    assert download(None, **checksum) == sha256(CONTENT)
    assert_done(download)
    assert site.requests == [f"bytes={start}-"]
    assert site.answers == [206]


def test_a_connection_that_breaks_is_taken_up_again(download: Download, site: Site) -> None:
    site.cuts = [100_000, 100_000]
    download()
    assert_done(download)
    assert len(site.requests) == 3
    assert None not in site.requests[1:]


def test_without_a_checksum_nothing_is_built_on(download: Download, site: Site) -> None:
    download.part.write_bytes(OTHER[:1000])
    download.path.write_bytes(OTHER)
    assert download(None) == sha256(CONTENT)
    assert_done(download)
    assert site.requests == [None]


def test_a_server_without_ranges_starts_over(download: Download, site: Site) -> None:
    download.broken_off(site, 200_000)
    site.ranges = False
    download()
    assert_done(download)
    assert site.answers == [200]


@pytest.mark.parametrize("other", [OTHER, OTHER + b"more", OTHER[:500]], ids=["as long", "longer", "shorter"])
def test_a_changed_file_starts_over(download: Download, site: Site, other: bytes) -> None:
    download.broken_off(site, 200_000)
    site.files["/a.zip"] = other
    assert download(other) == sha256(other)
    assert_done(download, other)


def test_another_part_than_asked_for_starts_over(download: Download, site: Site) -> None:
    download.broken_off(site, 200_000)
    site.deaf = True
    download()
    assert_done(download)


def test_bytes_of_unknown_origin_are_not_built_on(download: Download, site: Site) -> None:
    download.part.write_bytes(b"something else")
    download()
    assert_done(download)


def test_what_was_complete_but_not_yet_checked_is_not_loaded_again(download: Download, site: Site) -> None:
    download.part.write_bytes(CONTENT)
    download()
    assert_done(download)
    assert site.answers == [416]


def test_a_server_that_tells_no_length(download: Download, site: Site) -> None:
    site.length = False
    download()
    assert_done(download)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_throws_the_file_away(download: Download, kind: str) -> None:
    with pytest.raises(
        DownloadError, match=rf"a\.zip does not have the published checksum {kind}:1234, so it was deleted$"
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
        taken.bind(("127.0.0.1", 0))  # but does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip"
        with pytest.raises(
            DownloadError, match=r"^cannot reach 127\.0\.0\.1:\d+ for .*refused; is this machine online\?$"
        ):
            fetch(url, tmp_path / "a.zip", sha256=None, md5=None, progress=Recorder())


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError) as caught:
        fetch("http://photos.example/a.zip", tmp_path / "a.zip", sha256=None, md5=None, progress=Recorder())
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
    download.broken_off(site, 200_000)
    start = download.part.stat().st_size
    rest = len(CONTENT) - start
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, rest + 499))
    with pytest.raises(DownloadError, match=r"GB free, but .* GB are needed"):
        download(spare=lambda size: 500)
    assert download.part.stat().st_size == start
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, rest + 500))
    download(spare=lambda size: 500)
    assert_done(download)
