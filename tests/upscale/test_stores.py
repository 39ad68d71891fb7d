"""Plans, listings and records of object stores, with a stand-in for the store; test_ray_engine.py uses a real one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.networks import MRDAStudent
from mrda.photo.images import ImageError
from mrda.upscale import finding, results, stored_files
from mrda.upscale.batch import Files, Result, upscale_photos
from mrda.upscale.jobs import plan
from mrda.upscale.manifest import origin
from mrda.upscale.results import RECORD, Results
from mrda.upscale.stored_files import StoredFiles
from mrda.upscale.stores import is_stored, without_query
from mrda.upscale.upscaler import Upscaler


class Shelf:
    """A store in a dictionary, below one URI."""

    def __init__(self, uri, files):
        self.uri, self.files = uri, files

    def is_file(self, name):
        return name in self.files

    def names(self, recursive=True):
        return [name for name in self.files if recursive or "/" not in name]

    def read(self, name):
        return self.files[name]

    def write(self, name, content):
        self.files[name] = content


@pytest.fixture
def shelves(monkeypatch):
    """Stores by URI, with their files."""
    known = {"s3://b/in": {}, "s3://b/out": {}}
    shelf = lambda uri: Shelf(without_query(uri), known[without_query(uri)])  # noqa: E731
    monkeypatch.setattr(finding, "list_files", lambda uri, recursive: shelf(uri).names(recursive))
    monkeypatch.setattr(results, "connect", shelf)
    monkeypatch.setattr(stored_files, "connect", shelf)
    return known


@pytest.fixture
def upscaler():
    torch.manual_seed(0)
    return Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4))


def png(tmp_path, seed=0):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


def test_a_uri_is_no_path():
    assert is_stored("s3://bucket/photos")
    assert is_stored("gs://bucket")
    assert not any(map(is_stored, ["photos/a.png", "/s3:/b", "skimage:coffee", "C:\\photos", Path("s3://b")]))


def test_results_of_a_store_are_named_as_those_of_a_folder(shelves, tmp_path):
    names = ["a.png", "a.jpg", "deep/a.png", "deep/B.TIF", "deep/.hidden.png", "notes.txt", "c d%41.webp"]
    shelves["s3://b/in"] = dict.fromkeys(names, b"")
    folder = tmp_path / "in"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for recursive in (False, True):
        stored = plan(["s3://b/in/?region=x"], "s3://b/out", suffix="x4", recursive=recursive)
        local = plan([folder], tmp_path / "out", suffix="x4", recursive=recursive)
        assert [(job.name, job.format) for job in stored] == [(job.name, job.format) for job in local]
        assert [job.source for job in stored] == [
            f"s3://b/in/{Path(job.source).relative_to(folder).as_posix()}" for job in local
        ]
        assert [job.address for job in stored] == [f"s3://b/out/{job.name.as_posix()}" for job in stored]
    mixed = plan(["s3://b/in"], tmp_path / "out", suffix="x4")
    assert mixed[0].target == tmp_path / "out" / mixed[0].name


def test_results_inside_a_folder_of_a_store_are_no_photos(shelves):
    shelves["s3://b/in"] = dict.fromkeys(["a.png", "big/a_x4.png"], b"")
    jobs = plan(["s3://b/in"], "s3://b/in/big", suffix="x4", recursive=True)
    assert [job.source for job in jobs] == ["s3://b/in/a.png"]
    shelves["s3://b/in"] = dict.fromkeys(["a.png", "a_x4.png"], b"")
    jobs = plan(["s3://b/in"], "s3://b/in", suffix="x4", recursive=True)
    assert [job.address for job in jobs] == ["s3://b/in/a_x4.png"]
    with pytest.raises(ValueError, match=r"s3://b/in/a\.png is one of the photos to upscale"):
        plan(["s3://b/in"], "s3://b/in", suffix="", recursive=True)
    shelves["s3://b/in"] = {"notes.txt": b""}
    with pytest.raises(ImageError, match="the folder s3://b/in holds no image"):
        plan(["s3://b/in"], "s3://b/out", suffix="x4")


def test_photos_of_a_store_are_upscaled_as_files_are(shelves, tmp_path, upscaler):
    shelves["s3://b/in"] = {"deep/a.png": png(tmp_path), "bad.jpg": b"no photo"}
    jobs = plan(["s3://b/in"], "s3://b/out?region=x", suffix="x", recursive=True)
    files = StoredFiles(["s3://b/in"], "s3://b/out?region=x")
    found = {str(result.job.source): result for result in upscale_photos(upscaler, jobs, files=files)}
    assert found["s3://b/in/deep/a.png"].state == "done"
    assert found["s3://b/in/bad.jpg"].reason == "cannot read s3://b/in/bad.jpg: it is not an image of a known format"
    local = plan([tmp_path / "photo.png"], tmp_path / "out", suffix="x")
    list(upscale_photos(upscaler, local))
    assert shelves["s3://b/out"] == {"deep/a_x.png": local[0].target.read_bytes()}
    assert [files.exists(job) for job in jobs] == [job.name.name == "a_x.png" for job in jobs]


def test_a_store_that_fails_is_told_for_the_photo(shelves, tmp_path, upscaler):
    class Broken(Files):
        def write(self, job, *arguments, **options):
            raise OSError("AWS Error ACCESS_DENIED during PutObject operation. More of it")

    shelves["s3://b/in"] = {"a.png": png(tmp_path)}
    Image.open(tmp_path / "photo.png").save(tmp_path / "a.png")
    jobs = plan([tmp_path / "a.png"], "s3://b/out", suffix="x")
    (result,) = upscale_photos(upscaler, jobs, files=Broken())
    assert result == Result(
        jobs[0], "failed", "cannot write s3://b/out/a_x.png: AWS Error ACCESS_DENIED during PutObject operation"
    )


@pytest.mark.parametrize("stored", [False, True])
def test_a_folder_of_results_has_one_origin(shelves, tmp_path, upscaler, stored):
    output = "s3://b/out" if stored else str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        (tmp_path / name).write_bytes(png(tmp_path))
    (tmp_path / "photo.png").unlink()
    jobs = plan([tmp_path], output, suffix="x", ext="png")

    def put(name, content=b""):
        if stored:
            shelves["s3://b/out"][name] = content
        else:
            (tmp_path / "out" / name).write_bytes(content)

    here, other = origin(upscaler), origin(upscaler, 3.0)
    nothing = Results(output)
    nothing.check(here, jobs, skip_existing=False)
    assert not any(map(nothing.has, jobs))
    put("b_x.png")
    put("a_x.png")
    listed = Results(output)
    assert [job.name.name for job in jobs if listed.has(job)] == ["b_x.png"]  # a_x.png may be another photo's
    assert [job.name.name for job in jobs if listed.exists(job)] == ["a_x.png", "b_x.png"]
    with pytest.raises(ValueError, match="has no record of the weights that it is from"):
        listed.check(here, jobs, skip_existing=False)
    listed.check(here, jobs, skip_existing=True)
    listed.record(here)
    Results(output).check(here, jobs, skip_existing=False)
    for skip in (False, True):
        with pytest.raises(ValueError, match="holds results of other weights, strength or scale"):
            Results(output).check(other, jobs, skip_existing=skip)
    put(RECORD, b"[]x")
    with pytest.raises(ValueError, match=rf"{RECORD} can't be read"):
        Results(output).check(here, jobs, skip_existing=False)
