import os
from pathlib import Path

import pytest
from PIL import Image

from mrda.photo.images import ImageError
from mrda.upscale.jobs import is_done, mine, plan


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


def photos(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


NFC, NFD = "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png", "cafe\N{COMBINING ACUTE ACCENT}.png"


@pytest.mark.parametrize(
    ("names", "results"),
    [
        (["I.jpeg", "I.jpg"], ["I_jpeg_x.jpg", "I_x.jpg"]),
        (["I.jpg", "I.jfif", "I.jpeg"], ["I_x.jpg", "I_jfif_x.jpg", "I_jpeg_x.jpg"]),
        (["a.jpg", "a.JPG"], ["a_x.jpg", "a_JPG_x.jpg"]),
        (["A.jpg", "a.jpg"], ["A_x.jpg", "a_jpg_x.jpg"]),
        (["a.png", "a.bmp", "a.gif"], ["a_x.png", "a_bmp_x.png", "a_gif_x.png"]),
        (["1/a.png", "2/a.png", "3/a.png"], ["a_x.png", "a_png_x.png", "a_png_2_x.png"]),
        (["I.jpg", "I.jpeg", "I_jpeg.jpg"], ["I_x.jpg", "I_jpeg_2_x.jpg", "I_jpeg_x.jpg"]),
        ([NFC, NFD], [f"{NFC[:-4]}_png_x.png", f"{NFD[:-4]}_x.png"]),
        (["stra\N{LATIN SMALL LETTER SHARP S}e.png", "STRASSE.png"], ["stra\xdfe_png_x.png", "STRASSE_x.png"]),
        (["a", "a.png"], ["a_2_x.png", "a_x.png"]),
    ],
)
def test_photos_whose_results_would_share_a_name_are_all_done(tmp_path, caplog, names, results):
    given, out = photos(tmp_path / "in", *names), tmp_path / "out"
    assert targets(plan(given, out, suffix="x"), out) == results
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the photo's suffix is kept in the result's name, because another result has")
    backward = plan(given[::-1], out, suffix="x")
    assert targets(backward[::-1], out) == results  # whatever the order
    assert all(set(job.beside) <= {other.target for other in backward} for job in backward)


def test_a_result_of_another_photo_is_not_taken_for_this_one_s(tmp_path):
    out = tmp_path / "out"
    (jpeg,) = plan(photos(tmp_path, "I.jpeg"), out, suffix="x")
    photos(out, jpeg.name)
    assert is_done(jpeg, True, None)
    both = plan(photos(tmp_path, "I.jpeg", "I.jpg"), out, suffix="x")
    assert [is_done(job, True, None) for job in both] == [
        False,
        False,
    ]  # I_x.jpg is from I.jpeg, though named as I.jpg's
    photos(out, *(job.name for job in both))
    assert [is_done(job, True, None) for job in both] == [True, True]


def test_two_symlinks_to_one_photo_are_two_photos(tmp_path):
    (photo,) = photos(tmp_path / "in", "a.png")
    links = [tmp_path / "in" / name for name in ("b.png", "c.png")]
    for link in links:
        link.symlink_to(photo)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    out = tmp_path / "out"
    assert targets(plan(links, out, suffix="x"), out) == ["b_x.png", "c_x.png"]
    given = [tmp_path / "in", photo, *links, tmp_path / "link" / "b.png", str(tmp_path / "i*" / "*.png")]
    assert targets(plan(given, out, suffix="x"), out) == ["a_x.png", "b_x.png", "c_x.png"]
    with pytest.raises(ValueError, match="would be overwritten"):
        plan([links[0]], tmp_path / "in", suffix="", ext="png")


def test_folders_and_files_with_brackets_in_their_names(tmp_path):
    photos(tmp_path / "Photos [2020]", "a.jpg", "b [1].jpg", "deep/c.jpg")
    photos(tmp_path / "Photos 2", "d.jpg")
    out, base = tmp_path / "out", tmp_path / "Photos [2020]"
    for pattern, results in {
        "*.jpg": ["a_x.jpg", "b [1]_x.jpg"],
        "b [1].jpg": ["b [1]_x.jpg"],
        "**/c.jpg": ["c_x.jpg"],
        "": ["a_x.jpg", "b [1]_x.jpg"],
    }.items():
        assert targets(plan([os.path.join(base, pattern)], out, suffix="x"), out) == results
    assert targets(plan([str(tmp_path / "Photos [2]" / "*.jpg")], out, suffix="x"), out) == ["d_x.jpg"]


@pytest.mark.parametrize("name", ["n" * 250 + ".png", "\N{CAT FACE}" * 62 + ".jpg"])
def test_a_name_that_would_be_too_long_is_told_before_any_work(tmp_path, name):
    long, short = photos(tmp_path / "in", name, "a.png")
    with pytest.raises(
        ValueError, match=r"its name of 25[6-8] bytes is too long for the file system: rename the photo"
    ):
        plan([long], tmp_path / "out", suffix="xx" + "x" * (len(os.fsencode(name)) < 253))
    fails, done = plan([long, short], tmp_path / "out", suffix="xxxx")
    assert "is too long for the file system" in fails.fault
    assert done.fault is None
    suffix = "x" * (254 - len(os.fsencode(name)))
    assert plan([long], tmp_path / "out", suffix=suffix)[0].fault is None
    assert not (tmp_path / "out").exists()


def test_a_result_over_a_photo_of_another_case_is_refused(tmp_path):
    (photo,) = photos(tmp_path / "in", "a.PNG")
    os.link(photo, tmp_path / "in" / "a.png")  # what a file system shows that folds case
    with pytest.raises(ValueError, match="would be overwritten"):
        plan([photo], tmp_path / "in", suffix="")
    (tmp_path / "out").mkdir()
    os.link(photo, tmp_path / "out" / "a.png")  # but a link in another folder is replaced by a file of its own
    assert plan([photo], tmp_path / "out", suffix="")[0].fault is None


def test_a_result_over_a_photo_is_refused(folder, tmp_path):
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
