import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrda.networks import MRDAStudent
from mrda.photo.lanczos import resample
from mrda.upscale.batch import upscale_photos
from mrda.upscale.jobs import plan
from mrda.upscale.manifest import Manifest
from mrda.upscale.upscaler import Upscaler

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.jpg", "deep/c.webp", "deep/er/a.tif", "notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("milk")
        else:
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    return tmp_path / "in"


@pytest.fixture
def upscaler() -> Upscaler:
    return Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4))


def test_results_come_in_order_whatever_fails(folder, tmp_path, upscaler):
    (folder / "b.jpg").write_bytes(b"no photo")
    jobs = plan([folder], tmp_path / "out", suffix="x", recursive=True)
    results = list(upscale_photos(upscaler, jobs, workers=3))
    assert [result.job for result in results] == jobs
    assert [result.state for result in results] == ["done", "failed", "done", "done"]
    assert "it is not an image of a known format" in results[1].reason
    with Image.open(folder / "a.png") as image, Image.open(tmp_path / "out" / "a_x.png") as sr:
        np.testing.assert_array_equal(np.asarray(sr), upscaler(np.asarray(image)))


def test_photos_of_one_size_share_a_forward_pass(tmp_path, upscaler, monkeypatch):
    (tmp_path / "in").mkdir()
    sides = [(9, 7)] * 5 + [(7, 9)] + [(9, 7)] * 2
    for number, (height, width) in enumerate(sides):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "3.png").write_bytes(b"no photo")
    batches = []
    together = upscaler.together
    monkeypatch.setattr(upscaler, "together", lambda images: batches.append(len(images)) or together(images))
    jobs = plan([tmp_path / "in"], tmp_path / "out", suffix="x")
    results = list(upscale_photos(upscaler, jobs, together=2))
    assert [result.job for result in results] == jobs
    assert [result.state for result in results] == ["done"] * 3 + ["failed"] + ["done"] * 4
    assert batches == [2, 2]  # 0 and 1, 6 and 7
    for job in jobs[:3] + jobs[4:]:
        with Image.open(job.source) as image, Image.open(job.target) as sr:
            difference = np.abs(np.asarray(sr).astype(int) - upscaler(np.asarray(image)))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.01
    monkeypatch.setattr("mrda.upscale.batch.TOGETHER_PIXELS", 2 * 63 - 1)
    assert len(list(upscale_photos(upscaler, jobs, together=2))) == 8
    assert batches == [2, 2]  # two are too large by now
    halves = list(upscale_photos(upscaler, jobs[:2], together=2, scale=1.5))
    assert [result.state for result in halves] == ["done", "done"]


def test_large_results_are_written_as_they_come(folder, tmp_path, upscaler, monkeypatch):
    monkeypatch.setattr("mrda.upscale.batch.HELD_PIXELS", 10)
    upscaler.tile = 3
    jobs = plan([folder / "a.png"], tmp_path / "out", suffix="x")
    assert [result.state for result in upscale_photos(upscaler, jobs)] == ["done"]
    with Image.open(folder / "a.png") as image, Image.open(tmp_path / "out" / "a_x.png") as sr:
        np.testing.assert_array_equal(np.asarray(sr), upscaler(np.asarray(image)))


def test_existing_results_are_left_alone_where_wanted(folder, tmp_path, upscaler):
    jobs = plan([folder], tmp_path / "out", suffix="x")
    jobs[0].target.parent.mkdir()
    jobs[0].target.write_bytes(b"mine")
    assert [r.state for r in upscale_photos(upscaler, jobs, skip_existing=True)] == ["skipped", "done"]
    assert jobs[0].target.read_bytes() == b"mine"
    assert [r.state for r in upscale_photos(upscaler, jobs)] == ["done", "done"]
    assert jobs[0].target.read_bytes() != b"mine"


def test_a_manifest_tells_what_is_done(folder, tmp_path, upscaler):
    path = tmp_path / "manifest.jsonl"
    jobs = plan([folder], tmp_path / "out", suffix="x", recursive=True)
    first = upscale_photos(upscaler, jobs, manifest=Manifest(path, upscaler), workers=1)
    next(first)
    first.close()
    noted = len(path.read_text().splitlines())
    assert 1 <= noted < 4
    assert sum(job.target.is_file() for job in jobs) == noted
    with path.open("a") as file:
        file.write('{"source": "half a li')
    states = [result.state for result in upscale_photos(upscaler, jobs, manifest=Manifest(path, upscaler))]
    assert states == noted * ["skipped"] + (4 - noted) * ["done"]
    assert all(Manifest(path, upscaler).has(job) for job in jobs)
    jobs[0].target.unlink()  # what is gone is not done
    states = [result.state for result in upscale_photos(upscaler, jobs, manifest=Manifest(path, upscaler))]
    assert states == ["done"] + 3 * ["skipped"]


def test_a_half_line_alone_is_a_manifest_and_one_that_can_t_be_written_is_said(folder, tmp_path, upscaler):
    path = tmp_path / "m.jsonl"
    path.write_text('{"source": "half')
    jobs = plan([folder], tmp_path / "out", suffix="x")
    manifest = Manifest(path, upscaler)
    manifest.path = tmp_path  # a folder
    results = list(upscale_photos(upscaler, jobs, manifest=manifest))
    assert [result.state for result in results] == ["done", "done"]
    told = [notice for result in results for notice in result.notices]
    assert told == [f"{tmp_path} can't be written, so finished photos are not recorded: Is a directory"]
    assert manifest.failed


def test_a_photo_is_noted_as_soon_as_it_is_written(folder, tmp_path, upscaler):
    path = tmp_path / "m.jsonl"
    jobs = plan([folder], tmp_path / "out", suffix="x", recursive=True)
    results = upscale_photos(upscaler, jobs, manifest=Manifest(path, upscaler), workers=8)
    next(results)  # by now all are computed, and those that are written must be in it
    results.close()
    written = sum(job.target.is_file() for job in jobs)
    assert len(path.read_text().splitlines()) == written == 4


def test_results_inside_the_folder_of_photos_are_no_photos(folder, tmp_path, upscaler):
    jobs = plan([folder], folder / "big", suffix="x", recursive=True)
    list(upscale_photos(upscaler, jobs))
    assert plan([folder], folder / "big", suffix="x", recursive=True) == jobs
    assert plan([folder], folder / "big", suffix="y", recursive=True)[0].source == jobs[0].source


def test_too_little_memory_to_write_fails_the_photo_alone(folder, tmp_path, upscaler, monkeypatch):
    def short(*_, **__):
        raise MemoryError

    monkeypatch.setattr("mrda.upscale.batch.write_photo", short)
    results = list(upscale_photos(upscaler, plan([folder], tmp_path / "out", suffix="x")))
    assert [result.state for result in results] == ["failed", "failed"]
    assert "there is not enough memory" in results[0].reason


def test_another_file_is_no_manifest(tmp_path, upscaler):
    (tmp_path / "notes.txt").write_text("milk\n")
    with pytest.raises(ValueError, match=r"notes\.txt is not a manifest of `mrda upscale`"):
        Manifest(tmp_path / "notes.txt", upscaler)


@pytest.mark.parametrize("held", [10, 10_000])
def test_another_scale_is_resampled(folder, tmp_path, upscaler, monkeypatch, held):
    monkeypatch.setattr("mrda.upscale.batch.HELD_PIXELS", held)
    upscaler.tile = 3
    jobs = plan([folder / "a.png"], tmp_path / "out", suffix="x")
    list(upscale_photos(upscaler, jobs, scale=1.5))
    with Image.open(folder / "a.png") as image, Image.open(jobs[0].target) as sr:
        assert sr.size == (10, 14)  # 1.5 x (7, 9), half to even
        expected = list(resample([upscaler(np.asarray(image))], (18, 14), (14, 10)))
        np.testing.assert_array_equal(np.asarray(sr), np.concatenate(expected))


def test_lines_of_a_manifest_name_photo_and_result(folder, tmp_path, upscaler):
    jobs = plan([folder / "a.png"], tmp_path / "out", suffix="x")
    list(upscale_photos(upscaler, jobs, manifest=Manifest(tmp_path / "m.jsonl", upscaler)))
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert len(entry.pop("weights")) == 32
    assert entry == {"source": str(folder / "a.png"), "target": str(tmp_path / "out" / "a_x.png"), "scale": 2}


LARGE = """
import sys
from pathlib import Path
import torch
from PIL import Image
from mrda.upscale.upscaler import Upscaler
from mrda.networks import MRDAStudent
from mrda.upscale.jobs import plan
from mrda.upscale.manifest import Manifest
from mrda.upscale.batch import upscale_photos

Image.MAX_IMAGE_PIXELS = None
torch.manual_seed(0)
upscaler = Upscaler(MRDAStudent(scale=4, num_feat=16, num_blocks=2, den_width=4))
jobs = plan([sys.argv[1]], Path(sys.argv[2]), suffix="x", ext=sys.argv[3])
(result,) = upscale_photos(upscaler, jobs, scale=float(sys.argv[4]))
assert result.state == "done", result
# Not ru_maxrss, in which the process that started this one lives on.
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(1024 * int(peak.split()[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux alone tells a process's peak memory")
@pytest.mark.parametrize(("ext", "scale"), [("png", 4), ("tiff", 3.9)])
def test_a_hundred_megapixels_take_bounded_memory(tmp_path, ext, scale):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))
    noise.resize((2800, 2240), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    command = [sys.executable, "-c", LARGE]
    done = subprocess.run(
        [*command, tmp_path / "large.png", tmp_path, ext, str(scale)],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    result = 3 * scale * 2800 * scale * 2240  # bytes: 100 megapixels in RGB
    assert result > 285e6
    assert int(done.stdout) < 3 * result + 1e9
