import os
from pathlib import Path

import pytest
from PIL import Image

from mrda.photo.images import ImageError
from mrda.upscale.jobs import mine, plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.jpg", "deep/c.webp", "deep/er/a.tif", "notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


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
    with pytest.raises(
        ValueError, match=r"a\.png and .*a\.tif would both be written to .*a_x\.png: give their common folder"
    ):
        plan([folder / "a.png", folder / "deep/er/a.tif"], tmp_path, suffix="x", ext="png")
    with pytest.raises(ValueError, match=r"a\.png is one of the photos to upscale and would be overwritten"):
        plan([folder / "a.png"], folder, suffix="")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no image"):
        plan([tmp_path / "empty"], tmp_path, suffix="x")


@pytest.mark.parametrize(
    ("locked", "refused"), [("out", True), ("out/deep", True), ("out/other", False), ("out/deep/er", False)]
)
def test_folders_that_can_t_be_written_to_are_refused(folder, tmp_path, monkeypatch, locked, refused):
    for name in ("other", "deep"):
        (tmp_path / "out" / name).mkdir(parents=True)

    def access(path, mode):
        return not (Path(path) == tmp_path / locked and mode & os.W_OK and mode & os.X_OK)

    monkeypatch.setattr("os.access", access)  # root may write anywhere
    out = tmp_path / "out"
    if not refused:
        assert plan([folder], out, suffix="x", recursive=True)
        return
    with pytest.raises(ValueError, match=f"the folder {tmp_path / locked} can't be written to: "):
        plan([folder], out, suffix="x", recursive=True)


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
    elsewhere = mine(plan([folder], Path("/mnt/other"), suffix="x", recursive=True))  # where the folder is mounted
    assert [job.name for job in elsewhere] == [job.name for job in mine(jobs)]
    for rank, count in (("3", "3"), ("a", "1"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", count)
        with pytest.raises(ValueError, match=f"RANK is '{rank}' and WORLD_SIZE '{count}'"):
            mine(jobs)
