import hashlib
import logging
import os
import re
import zipfile
from collections import namedtuple
from collections.abc import Container, Iterator
from pathlib import Path

import pytest
from recorder import Recorder
from server import Site, serving

from mrda.data.datasets import DATASETS, Archive, Dataset
from mrda.data.download import download
from mrda.data.fetch import DownloadError


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as site:
        yield site


def zipped(folder: Path, pictures: int = 2) -> bytes:
    path = folder / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(pictures):
            archive.writestr(f"set/HR/{i}.png", f"picture {i}")
            archive.writestr(f"set/LR/{i}.png", "small")
    content = path.read_bytes()
    path.unlink()
    return content


def archive(site: Site, name: str, content: bytes, *, known: bool = True) -> Archive:
    site.files[f"/{name}"] = content
    return Archive(
        url=f"{site.url}/{name}",
        size=len(content),
        folder="set/HR",
        sha256=hashlib.sha256(content).hexdigest() if known else None,
        md5=hashlib.md5(content).hexdigest() if known else None,
        checksum_from="this test",
    )


def dataset(*archives: Archive, pictures: int = 2) -> Dataset:
    return Dataset("Pictures", "training", pictures, archives, "https://pictures.example/")


Usage = namedtuple("Usage", "total used free")


class Told(logging.Handler):
    """Collects the messages that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def get(wanted: Dataset, folder: Path, keep: Container[str] = ()) -> tuple[Path, list[str]]:
    logger, told = logging.getLogger("mrda"), Told()
    logger.addHandler(told)
    try:
        return download(wanted, folder, progress=Recorder(), keep=keep), told.messages
    finally:
        logger.removeHandler(told)


def test_a_set_becomes_a_folder_of_its_name(site: Site, tmp_path: Path) -> None:
    wanted = dataset(archive(site, "set.zip", zipped(tmp_path)))
    target, told = get(wanted, tmp_path / "data" / "sets")
    assert target == tmp_path / "data" / "sets" / "Pictures"
    assert {path.name: path.read_text() for path in target.iterdir()} == {"0.png": "picture 0", "1.png": "picture 1"}
    assert os.listdir(target.parent) == ["Pictures"]
    assert told == []
    assert get(wanted, tmp_path / "data" / "sets")[1] == [f"{target} is there already"]
    assert len(site.requests) == 1


def test_an_archive_that_is_kept_serves_again(site: Site, tmp_path: Path) -> None:
    first = archive(site, "set.zip", zipped(tmp_path))
    get(dataset(first), tmp_path, keep={first.url})
    assert sorted(os.listdir(tmp_path)) == ["Pictures", "set.zip"]
    other = Dataset("Others", "training", 2, (first,), "")
    get(other, tmp_path, keep={first.url})
    assert len(site.requests) == 1
    (tmp_path / "set.zip").write_bytes(b"something else of this name")
    get(Dataset("More", "training", 2, (first,), ""), tmp_path)
    assert len(site.requests) == 2
    assert sorted(os.listdir(tmp_path)) == ["More", "Others", "Pictures"]


def test_without_a_published_checksum_the_one_found_is_told(site: Site, tmp_path: Path) -> None:
    content = zipped(tmp_path)
    wanted = archive(site, "set.zip", content, known=False)
    target, told = get(dataset(wanted), tmp_path)
    assert target.is_dir()
    found = hashlib.sha256(content).hexdigest()
    assert told == [f"no checksum is published for {wanted.url}, so it could not be verified; its SHA-256 is {found}"]


@pytest.mark.parametrize("fault", ["missing", "checksum", "content"])
def test_the_next_place_is_tried(site: Site, tmp_path: Path, fault: str) -> None:
    good, bad = archive(site, "good.zip", zipped(tmp_path)), archive(site, "bad.zip", b"milk")
    if fault == "missing":
        del site.files["/bad.zip"]
    elif fault == "checksum":
        site.files["/bad.zip"] = b"bread"
    target, told = get(dataset(bad, good), tmp_path / "sets")
    assert len(list(target.iterdir())) == 2
    assert len(told) == 1
    assert told[0].endswith(f"; trying {good.url}")
    assert "bad.zip" in told[0]


def test_the_last_failure_is_raised(site: Site, tmp_path: Path) -> None:
    first, last = archive(site, "first.zip", b""), archive(site, "last.zip", b"")
    site.files.clear()
    with pytest.raises(DownloadError, match=r"last\.zip: the server answered 404"):
        get(dataset(first, last), tmp_path)
    assert os.listdir(tmp_path) == []


def test_there_must_be_room_for_the_archive_and_its_pictures(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = zipped(tmp_path)
    wanted = dataset(archive(site, "set.zip", content))
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 2 * len(content) - 1))
    with pytest.raises(DownloadError, match="GB are needed"):
        get(wanted, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 2 * len(content)))
    assert get(wanted, tmp_path)[0].is_dir()


def test_a_wrong_number_of_pictures_is_told(site: Site, tmp_path: Path) -> None:
    target, told = get(dataset(archive(site, "set.zip", zipped(tmp_path)), pictures=3), tmp_path)
    assert told == [f"{target} has 2 files, but Pictures has 3 pictures"]


def test_a_set_that_has_to_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"Manga109 must be requested from its owners, see http://www\.manga109"):
        get(DATASETS["Manga109"], tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_table() -> None:
    assert set(DATASETS) >= {"DIV2K_train_HR", "DIV2K_valid_HR", "Flickr2K", "Set5", "Set14", "B100", "Urban100"}
    for name, entry in DATASETS.items():
        assert entry.name == name
        assert entry.use in ("training", "validation", "evaluation")
        assert entry.home.startswith("http")
        for place in entry.archives:
            assert place.url.startswith("https://")
            assert place.url.endswith((".zip", ".tar", ".tar.gz"))
            assert place.sha256 is None or re.fullmatch("[0-9a-f]{64}", place.sha256)
            assert place.md5 is None or re.fullmatch("[0-9a-f]{32}", place.md5)
            for known, kind in ((place.sha256, "SHA-256"), (place.md5, "MD5")):
                assert (kind in place.checksum_from) == (known is not None)
