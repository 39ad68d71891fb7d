import hashlib
import io
import json
import os
import signal
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from commands import one_sentence, refused, run, start
from PIL import Image

import mrda.cli.data  # noqa: F401 (registers its commands)
from mrda.config import DataConfig
from mrda.data.datasets import Archive, Dataset
from mrda.data.patches import load_patches


def picture(path, height=40, width=60, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


# --- prepare


def test_prepare_makes_a_cache_to_train_on(tmp_path):
    picture(tmp_path / "photos" / "a.png")
    picture(tmp_path / "photos" / "deep" / "b.png", seed=1)
    cache = tmp_path / "caches" / "cache"
    result = run("data", "prepare", tmp_path / "photos", "-o", cache, "--size", 32, "--overlap", 8)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    # Two photos of 40 x 60 px in 2 x 3 tiles of 32 x 32 px.
    assert result.stdout == f"{cache}: 2 photos in 12 tiles, 36.9 kB\n"
    assert json.loads((cache / "index.json").read_text())["overlap"] == 8
    assert len(load_patches(DataConfig(sources=[str(cache)], patch_size=8), scale=4)) == 2


def test_prepare_lists_what_it_could_not_use(tmp_path):
    photos = tmp_path / "photos"
    good = picture(photos / "a.png")
    (photos / "b.png").write_text("milk, bread\n")
    picture(photos / "c.png")
    picture(photos / "d.png", height=31, seed=2)
    result = run("data", "prepare", photos, "-o", tmp_path / "cache", "--min-size", 32)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"mrda: cannot read {photos / 'b.png'}: it is not an image of a known format",
        f"mrda: left out: {photos / 'c.png'} has the same pixels as {good}",
        f"mrda: left out: {photos / 'd.png'} is 60 x 31 px, smaller than 32",
    ]
    assert "1 photos in 1 tiles" in result.stdout
    (photos / "b.png").unlink()
    assert run("data", "prepare", photos, "-o", tmp_path / "cache", "--overwrite").exit_code == 0


def test_prepare_refuses_wrong_usage(tmp_path):
    photo, cache = picture(tmp_path / "a.png"), tmp_path / "cache"
    (tmp_path / "empty").mkdir()
    for arguments, word in (
        ((photo, "--size", 0), "--size is 0"),
        ((photo, "--size", 8, "--overlap", 8), "--overlap is 8"),
        ((photo, "--min-size", 0), "--min-size is 0"),
        ((tmp_path / "empty",), "holds no image"),
        ((tmp_path / "gone.png",), "gone.png"),
    ):
        refused(run("data", "prepare", *arguments, "-o", cache), cache, word)
    assert run("data", "prepare", photo, "-o", cache).exit_code == 0
    again = run("data", "prepare", photo, "-o", cache)
    assert again.exit_code == 2
    assert one_sentence(again.stderr)
    assert "--overwrite" in again.stderr


def test_prepare_names_a_disk_that_can_not_be_written(tmp_path):
    photo = picture(tmp_path / "a.png")
    result = run("data", "prepare", photo, "-o", photo / "cache")
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert f"cannot write {photo / 'cache'}: " in result.stderr


def test_ctrl_c_leaves_no_half_cache(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for i in range(150):  # a second's work
        pixels[0, 0, 0] = i
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png", compress_level=1)
    process = start("data", "prepare", tmp_path / "photos", "-o", tmp_path / "cache")
    while process.poll() is None and not any(tmp_path.glob(".cache.*/pixels.u8")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert os.listdir(tmp_path) == ["photos"]


# --- download, list


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Two sets in one archive, a third whose archive is missing; served from a folder."""
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "both.tar", "w") as archive:
        for name in ("One", "Two"):
            member = tarfile.TarInfo(f"both/{name}/a.png")
            member.size = 3
            archive.addfile(member, io.BytesIO(name.encode()))
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    sha256 = hashlib.sha256((served / "both.tar").read_bytes()).hexdigest()

    def dataset(name, archive):
        place = Archive(f"{address}/{archive}", 10240, f"both/{name}", sha256, None, "SHA-256: this test")
        return Dataset(name, "evaluation", 1, (place,), "https://photos.example/")

    table = {name: dataset(name, "both.tar") for name in ("One", "Two")}
    table |= {
        "Gone": dataset("Gone", "gone.tar"),
        "Asked": Dataset("Asked", "evaluation", 9, (), "https://ask.example/"),
    }
    monkeypatch.setattr("mrda.data.datasets.DATASETS", table)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_gets_an_archive_once_for_all_its_sets(tmp_path, sets):
    out = tmp_path / "photos"
    result = run("data", "download", "one", "Two", "ONE", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"One: {out / 'One'}\nTwo: {out / 'Two'}\n"
    assert result.stderr == ""
    assert (out / "Two" / "a.png").read_bytes() == b"Two"
    assert sorted(os.listdir(out)) == ["One", "Two"]
    assert sets == ["/both.tar"]
    again = run("data", "download", "One", "-o", out)
    assert again.exit_code == 0
    assert again.stderr == f"mrda: {out / 'One'} is there already\n"


def test_download_keeps_archives_where_asked(tmp_path, sets):
    for name in ("One", "Two"):
        assert run("data", "download", name, "-o", tmp_path / "out", "--keep-archives").exit_code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["One", "Two", "both.tar"]
    assert sets == ["/both.tar"]


def test_download_does_the_others_when_one_fails(tmp_path, sets):
    result = run("data", "download", "Gone", "One", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "gone.tar: the server answered 404" in result.stderr
    assert result.stdout == f"One: {tmp_path / 'out' / 'One'}\n"


def test_download_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")

    def offline(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    result = run("data", "download", "DIV2K_train_HR", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "cannot reach data.vision.ee.ethz.ch" in result.stderr
    assert "Network is unreachable; is this machine online?" in result.stderr


def test_download_refuses_what_it_can_not_get(tmp_path, sets):
    out = tmp_path / "out"
    refused(run("data", "download", "One", "Thre", "-o", out), out, "'Thre'", "One, Two, Gone, Asked")
    refused(run("data", "download", "Asked", "-o", out), out, "https://ask.example/")
    assert sets == []


def test_download_names_a_folder_that_can_not_be_made(tmp_path, sets):
    (tmp_path / "out").write_text("a file")
    result = run("data", "download", "One", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "cannot write" in result.stderr


def test_list_shows_all_sets():
    result = run("data", "list")
    assert result.exit_code == 0
    assert (
        "| DIV2K_train_HR | training | 800 | 3.5 GB | SHA-256, MD5 | https://data.vision.ee.ethz.ch/" in result.stdout
    )
    assert "| or | | | 4.98 MB | no published checksum | https://huggingface.co/" in result.stdout
    assert "| Manga109 | evaluation | 109 | | | on request from its owners | http://www.manga109.org" in result.stdout
