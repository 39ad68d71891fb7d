"""Disks that are full, read-only or over a quota: a command says so in a sentence, keeps what it can, and fails."""

import errno
import json
import os

import numpy as np
import pytest
from commands import one_sentence, run, start
from disks import disk_of, files_of
from PIL import Image

from mrda.upscale.upscaler import Upscaler

FULL = "the disk is full (no space left)"


@pytest.fixture
def photos(tmp_path):
    """Three photos of noise, of which the second is large."""
    folder = tmp_path / "in"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, side in (("1.jpg", 16), ("2.jpg", 150), ("3.jpg", 16)):
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_a_photo_that_does_not_fit_on_the_disk_fails_and_the_others_are_done(tmp_path, photos, weights):
    manifest = tmp_path / "m.jsonl"
    with disk_of(tmp_path / "out", "48k") as out:
        command = ["upscale", photos, "-o", out, "-w", weights, "--manifest", manifest]
        result = run(*command)
        assert result.exit_code == 1
        assert result.stderr == f"mrda: cannot write {out / '2_x2.jpg'}: {FULL}\n"
        assert sorted(os.listdir(out)) == ["1_x2.jpg", "3_x2.jpg"]
        for path in out.iterdir():
            Image.open(path).load()
        recorded = [json.loads(line)["target"] for line in manifest.read_text().splitlines()]
        assert sorted(recorded) == [str(out / "1_x2.jpg"), str(out / "3_x2.jpg")]
    result = run(*command)  # where there is room now; the folder is empty, so all are done
    assert result.exit_code == 0, result.stderr


def test_while_the_disk_is_full_no_photo_is_computed(tmp_path, photos, weights, monkeypatch):
    computed, bands = [], Upscaler.bands
    monkeypatch.setattr(Upscaler, "bands", lambda *args: computed.append(args) or bands(*args))
    for number in range(7):
        Image.new("RGB", (8, 8)).save(photos / f"more{number}.jpg")
    with disk_of(tmp_path / "out", "16k") as out:
        (out / "other").write_bytes(bytes(16384))
        result = run("upscale", photos, "-o", out, "-w", weights, "--jobs", 1)
        assert result.exit_code == 1
        assert result.stderr.count(FULL) == result.stderr.count("\n") == 10
        assert os.listdir(out) == ["other"]
        assert len(computed) <= 4


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO])
def test_other_faults_of_disks_are_named(tmp_path, photos, weights, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    words = {
        errno.EDQUOT: "your quota is used up",
        errno.EROFS: "the disk is read-only",
        errno.EFBIG: "larger than the file system",
        errno.EIO: "input/output error",
    }
    monkeypatch.setattr("mrda.core.files._Raw.write", fail)
    result = run("upscale", photos / "1.jpg", "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert words[code] in result.stderr
    assert os.listdir(tmp_path / "out") == []


def test_scores_are_printed_if_their_files_can_t_be_written(tmp_path, photos, weights):
    with disk_of(tmp_path / "disk", "16k") as disk:
        options = ["--data", photos, "--method", "bicubic", "--protocol", "bicubic", "--csv", tmp_path / "a.csv"]
        (disk / "other").write_bytes(bytes(16384))
        result = run("evaluate", *options, "--json", disk / "a.json")
        assert (result.exit_code, result.stdout) == (2, "")  # before any work
        assert result.stderr == f"mrda: --json {disk / 'a.json'} can't be written: {FULL}\n"
    with files_of(4096):
        (photos / "1.jpg").unlink()
        (photos / "3.jpg").unlink()
        many = photos / ("n" * 200 + ".jpg")
        (photos / "2.jpg").rename(many)
        result = run("evaluate", *options, "--json", tmp_path / "a.json", "--protocol", "mrda9")
    assert result.exit_code == 1
    assert "| bicubic |" in result.stdout
    assert result.stderr.count("\n") == 1, result.stderr
    assert f"mrda: --csv {tmp_path / 'a.csv'} can't be written: the file would be larger" in result.stderr
    assert result.stderr.endswith("; the table above is complete\n")
    assert (tmp_path / "a.json").exists()
    assert not (tmp_path / "a.csv").exists()


def test_pictures_and_degraded_photos_are_whole_or_missing(tmp_path, photos, weights):
    with disk_of(tmp_path / "out", "48k") as out:
        result = run("degrade", photos, "--preset", "classic-iso-x4", "-o", out)
        assert result.exit_code == 0, result.stderr
        result = run("degrade", photos, "--preset", "classic-iso-x4", "-o", out, "--grid")
        assert result.exit_code == 2
        assert one_sentence(result.stderr)
        assert FULL in result.stderr
        assert "photos were degraded before" in result.stderr
    with disk_of(tmp_path / "pictures", "48k") as out:
        result = run(
            "evaluate", "--data", photos, "--method", "bicubic", "--protocol", "unpaired", "-o", out, "--scale", 4
        )
        assert result.exit_code == 1
        assert result.stderr == (f"mrda: {photos / '2.jpg'}: cannot write {out / 'in/bicubic/2.png'}: {FULL}\n")
        assert sorted(os.listdir(out / "in" / "bicubic")) == ["1.png", "3.png"]


def test_a_cache_and_an_export_are_whole_or_missing(tmp_path, photos, weights):
    with disk_of(tmp_path / "disk", "48k") as disk:
        result = run("data", "prepare", photos, "-o", disk / "cache")
        assert result.exit_code == 1
        assert result.stderr == f"mrda: cannot write {disk / 'cache'}: {FULL}; nothing was kept of it\n"
        assert os.listdir(disk) == []
        result = run("export", "-w", weights, "-o", disk, "--format", "torch-export")
        assert result.exit_code == 2
        assert result.stderr == f"mrda: the output folder {disk} can't be written to: {FULL}\n"
        assert os.listdir(disk) == []
        result = run("convert", weights, disk / "a.pth")
        assert result.exit_code == 2
        assert result.stderr == f"mrda: {disk / 'a.pth'} can't be written: {FULL}\n"
        assert os.listdir(disk) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_output_that_can_t_be_printed_is_told():
    process = start("data", "list")
    process.communicate()
    assert process.returncode == 0
    with open("/dev/full", "w") as full:
        process = start("data", "list", stdout=full)
        _, error = process.communicate()
    assert process.returncode != 0
    assert one_sentence(error), error
    assert f"cannot write the output: {FULL}" in error
