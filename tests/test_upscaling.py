import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrda.images import ImageError
from mrda.inference import Upscaler
from mrda.networks import MRDAStudent
from mrda.upscaling import Manifest, mine, plan, resample, upscale_photos

REPOSITORY = Path(__file__).resolve().parents[1]


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


def targets(jobs, output):
    return [str(job.target.relative_to(output)) for job in jobs]


def test_folders_keep_their_tree_and_each_photo_its_format(folder, tmp_path):
    out = tmp_path / "out"
    assert targets(plan([folder], out, suffix="out"), out) == ["a_out.png", "b_out.jpg"]
    jobs = plan([folder], out, suffix="x4", recursive=True)
    assert sorted(targets(jobs, out)) == ["a_x4.png", "b_x4.jpg", "deep/c_x4.webp", "deep/er/a_x4.tif"]
    assert targets(plan([folder / "b.jpg"], out, suffix="", ext="png"), out) == ["b.png"]
    assert not out.exists()


def test_patterns_and_photos_that_are_named_twice(folder, tmp_path):
    out = tmp_path / "out"
    jobs = plan([str(folder / "*.[pj]*g"), folder / "a.png", str(folder / "**" / "*.tif")], out, suffix="x")
    assert sorted(targets(jobs, out)) == ["a_x.png", "a_x.tif", "b_x.jpg"]
    # a name with brackets is a name first
    Image.new("RGB", (4, 4)).save(folder / "[1].png")
    assert targets(plan([folder / "[1].png"], out, suffix="x"), out) == ["[1]_x.png"]


def test_two_results_of_one_name_and_a_result_over_a_photo_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"a\.png and .*a\.tif would both be written to .*a_x\.png"):
        plan([folder / "a.png", folder / "deep/er/a.tif"], tmp_path, suffix="x", ext="png")
    with pytest.raises(ValueError, match=r"a\.png is one of the photos to upscale, and would be overwritten"):
        plan([folder / "a.png"], folder, suffix="")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no image"):
        plan([tmp_path / "empty"], tmp_path, suffix="x")


def test_results_come_in_order_whatever_fails(folder, tmp_path, upscaler):
    (folder / "b.jpg").write_bytes(b"no photo")
    jobs = plan([folder], tmp_path / "out", suffix="x", recursive=True)
    results = list(upscale_photos(upscaler, jobs, workers=3))
    assert [result.job for result in results] == jobs
    assert [result.state for result in results] == ["done", "failed", "done", "done"]
    assert "it is not an image of a known format" in results[1].reason
    with Image.open(folder / "a.png") as image, Image.open(tmp_path / "out" / "a_x.png") as sr:
        np.testing.assert_array_equal(np.asarray(sr), upscaler(np.asarray(image)))


def test_large_results_are_written_as_they_come(folder, tmp_path, upscaler, monkeypatch):
    monkeypatch.setattr("mrda.upscaling.HELD_PIXELS", 10)
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
    first = upscale_photos(upscaler, jobs, manifest=Manifest(path), workers=1)
    next(first)
    first.close()
    noted = len(path.read_text().splitlines())
    assert 1 <= noted < 4
    assert sum(job.target.is_file() for job in jobs) == noted
    with path.open("a") as file:
        file.write('{"source": "half a li')
    states = [result.state for result in upscale_photos(upscaler, jobs, manifest=Manifest(path))]
    assert states == noted * ["skipped"] + (4 - noted) * ["done"]
    assert all(Manifest(path).has(job) for job in jobs)
    jobs[0].target.unlink()  # what is gone is not done
    assert [r.state for r in upscale_photos(upscaler, jobs, manifest=Manifest(path))] == ["done"] + 3 * ["skipped"]


def test_a_half_line_alone_is_a_manifest_and_one_that_can_t_be_written_is_said(folder, tmp_path, upscaler):
    path = tmp_path / "m.jsonl"
    path.write_text('{"source": "half')
    jobs = plan([folder / "a.png"], tmp_path / "out", suffix="x")
    manifest = Manifest(path)
    manifest.path = tmp_path  # a folder
    (result,) = upscale_photos(upscaler, jobs, manifest=manifest)
    assert result.state == "done"
    assert "can't be written, so this is not noted as done" in result.notices[0]


def test_a_photo_is_noted_as_soon_as_it_is_written(folder, tmp_path, upscaler):
    path = tmp_path / "m.jsonl"
    jobs = plan([folder], tmp_path / "out", suffix="x", recursive=True)
    results = upscale_photos(upscaler, jobs, manifest=Manifest(path), workers=8)
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

    monkeypatch.setattr("mrda.upscaling.write_photo", short)
    results = list(upscale_photos(upscaler, plan([folder], tmp_path / "out", suffix="x")))
    assert [result.state for result in results] == ["failed", "failed"]
    assert "there is not enough memory" in results[0].reason


def test_another_file_is_no_manifest(tmp_path):
    (tmp_path / "notes.txt").write_text("milk\n")
    with pytest.raises(ValueError, match=r"notes\.txt is not a manifest of an upscaling"):
        Manifest(tmp_path / "notes.txt")


def test_processes_share_the_jobs(folder, tmp_path, monkeypatch):
    jobs = plan([folder], tmp_path, suffix="x", recursive=True)
    assert mine(jobs) == jobs
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares += mine(jobs)
    assert sorted(map(str, shares)) == sorted(map(str, jobs))
    assert [job for job in mine(jobs[1:]) if job in mine(jobs)] == mine(jobs[1:])  # whatever others there are
    for rank, count in (("3", "3"), ("a", "1"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", count)
        with pytest.raises(ValueError, match=f"RANK is '{rank}' and WORLD_SIZE '{count}'"):
            mine(jobs)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 3), (12, 9, 4)])
def test_resampling_keeps_type_range_and_flat_colours(dtype, shape):
    top = np.iinfo(dtype).max
    flat = np.full(shape, top, dtype)
    assert (resample(flat, 30, 5) == top).all()
    noise = np.random.default_rng(0).integers(0, top, shape, dtype=dtype, endpoint=True)
    result = resample(noise, 30, 5)
    assert result.shape == (30, 5, *shape[2:])
    assert result.dtype == dtype
    np.testing.assert_array_equal(resample(noise, 12, 9), noise)


def test_another_scale_is_resampled(folder, tmp_path, upscaler):
    jobs = plan([folder / "a.png"], tmp_path / "out", suffix="x")
    list(upscale_photos(upscaler, jobs, scale=1.5))
    with Image.open(folder / "a.png") as image, Image.open(jobs[0].target) as sr:
        assert sr.size == (10, 14)  # 1.5 x (7, 9), half to even
        np.testing.assert_array_equal(np.asarray(sr), resample(upscaler(np.asarray(image)), 14, 10))


def test_lines_of_a_manifest_name_photo_and_result(folder, tmp_path, upscaler):
    jobs = plan([folder / "a.png"], tmp_path / "out", suffix="x")
    list(upscale_photos(upscaler, jobs, manifest=Manifest(tmp_path / "m.jsonl")))
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    assert json.loads(line) == {"source": str(folder / "a.png"), "target": str(tmp_path / "out" / "a_x.png")}


LARGE = """
import sys
from pathlib import Path
import torch
from PIL import Image
from mrda.inference import Upscaler
from mrda.networks import MRDAStudent
from mrda.upscaling import plan, upscale_photos

Image.MAX_IMAGE_PIXELS = None
torch.manual_seed(0)
upscaler = Upscaler(MRDAStudent(scale=4, num_feat=16, num_blocks=2, den_width=4))
(result,) = upscale_photos(upscaler, plan([sys.argv[1]], Path(sys.argv[2]), suffix="x", ext=sys.argv[3]))
assert result.state == "done", result
# Not ru_maxrss, in which the process that started this one lives on.
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(1024 * int(peak.split()[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux alone tells a process's peak memory")
@pytest.mark.parametrize("ext", ["png", "tiff"])
def test_a_hundred_megapixels_take_bounded_memory(tmp_path, ext):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))
    noise.resize((2800, 2240), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    command = [sys.executable, "-c", LARGE]
    done = subprocess.run(
        [*command, tmp_path / "large.png", tmp_path, ext], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    result = 3 * 4 * 2800 * 4 * 2240  # bytes: 100 megapixels in RGB
    assert result > 300e6
    assert int(done.stdout) < 3 * result + 1e9
