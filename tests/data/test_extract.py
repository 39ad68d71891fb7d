import io
import os
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from recorder import Recorder

from mrda.data.extract import extract
from mrda.data.fetch import DownloadError

FILES = {"set/HR/a.png": b"aaa", "set/HR/deep/b.png": b"bb", "set/LR/a.png": b"l", "other.txt": b"o"}


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("set") if hasattr(archive, "mkdir") else None
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def make_tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        folder = tarfile.TarInfo("set")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return path


def make(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / f"archive.{kind}"
    return make_zip(path, files) if kind == "zip" else make_tar(path, files)


KINDS = ["zip", "tar", "tar.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_folder_comes_out(tmp_path: Path, kind: str) -> None:
    progress = Recorder()
    count = extract(make(kind, tmp_path, FILES), "set/HR", tmp_path / "out", progress)
    assert count == 2
    assert (tmp_path / "out" / "a.png").read_bytes() == b"aaa"
    assert (tmp_path / "out" / "deep" / "b.png").read_bytes() == b"bb"
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "deep"]
    assert sorted(os.listdir(tmp_path)) == [f"archive.{kind}", "out"]
    assert progress.told == [("unpacking out", 0, 5), ("unpacking out", 3, 5), ("unpacking out", 5, 5)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "set/HR/../../../evil.png",
        "../evil.png",
        "/tmp/evil.png",
        "set/HR/..\\..\\evil.png",
        "C:\\evil.png",
        "set/HR/C:/evil.png/..",
        "\\\\host\\share\\evil.png",
    ],
)
def test_members_that_would_land_elsewhere(tmp_path: Path, kind: str, name: str) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    archive = make(kind, folder, {**FILES, name: b"evil"})
    with pytest.raises(DownloadError, match=r"holds the member .*, which is unsafe to unpack"):
        extract(archive, "set/HR", folder / "out", Recorder())
    assert os.listdir(tmp_path) == ["downloads"]
    assert os.listdir(folder) == [archive.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("set/HR/evil.png")
    member.type, member.linkname = kind, "/etc/passwd"
    archive = make_tar(tmp_path / "a.tar", FILES, member)
    with pytest.raises(DownloadError, match=r"holds the member 'set/HR/evil\.png', which is unsafe to unpack"):
        extract(archive, "set/HR", tmp_path / "out", Recorder())
    assert os.listdir(tmp_path) == ["a.tar"]
    member.name = "elsewhere/link"  # never looked at
    archive = make_tar(tmp_path / "a.tar", FILES, member)
    assert extract(archive, "set/HR", tmp_path / "out", Recorder()) == 2


def test_links_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("set/HR/evil.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadError, match="unsafe to unpack"):
        extract(tmp_path / "a.zip", "set/HR", tmp_path / "out", Recorder())
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("kind", KINDS)
def test_damage(tmp_path: Path, kind: str) -> None:
    archive = make(kind, tmp_path, {**FILES, "set/HR/c.png": bytes(range(256)) * 99})
    whole = archive.read_bytes()
    spoilt = bytearray(whole)
    for place in range(len(whole) // 3, len(whole) // 3 + 40):
        spoilt[place] ^= 0x5A
    for content in (b"", b"milk", whole[: len(whole) // 2], bytes(spoilt) if kind != "tar" else whole[:1500]):
        archive.write_bytes(content)
        with pytest.raises(DownloadError, match=r"archive\.\S+ (can't be unpacked: .|holds no file)") as caught:
            extract(archive, "set/HR", tmp_path / "out", Recorder())
        assert "\n" not in str(caught.value)
        assert os.listdir(tmp_path) == [archive.name]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"holds no files in its folder set/XR"):
        extract(make_zip(tmp_path / "a.zip", FILES), "set/XR", tmp_path / "out", Recorder())


def test_a_stop_leaves_nothing(tmp_path: Path) -> None:
    class Stop(Recorder):
        def advance(self, amount: float = 1, *, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(make_zip(tmp_path / "a.zip", FILES), "set/HR", tmp_path / "out", Stop())
    assert os.listdir(tmp_path) == ["a.zip"]


Usage = namedtuple("Usage", "total used free")


def test_room_is_looked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 4))
    with pytest.raises(DownloadError, match="GB free, but"):
        extract(archive, "set/HR", tmp_path / "out", Recorder())
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 5))
    assert extract(archive, "set/HR", tmp_path / "out", Recorder()) == 2
