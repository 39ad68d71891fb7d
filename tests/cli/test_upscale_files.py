"""Selection of photos, names of results, and the content of the output folder."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from commands import one_sentence, refused, run
from PIL import Image

from mrda.core.files import temporary_key
from mrda.networks import MRDAStudent, save_network


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.png", "deep/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4)).save(folder / name)
    return folder


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def summary(result):
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    return {state: len(entries) for state, entries in facts.items()}


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("ext", ["auto", "webp"])
def test_photos_may_be_upscaled_into_their_own_folder_again_and_again(folder, tmp_path, weights, ext, manifest):
    options = ["-r", "-w", weights, "--json", "--ext", ext]
    options += ["--manifest", tmp_path / "m.jsonl"] if manifest else []
    for number, more in enumerate(([], [], ["-s", "1.5"], ["--suffix", "big"], ["--suffix", "big"])):
        result = run("upscale", folder, "-o", folder, *options, *more)
        counts = summary(result)
        assert counts == ({"done": 0, "skipped": 2, "failed": 0} if manifest and number in (1, 4) else
                          {"done": 2, "skipped": 0, "failed": 0})  # fmt: skip
        assert ("their names look like results of an earlier run" in result.stderr) == (number > 1 and not manifest)
    suffix = ".png" if ext == "auto" else ".webp"
    results = [f"{name}_{tail}{suffix}" for name in ("a", "deep/b") for tail in ("big", "x1.5", "x2")]
    assert tree(folder) == sorted(["a.png", "deep/b.png", *results])


def test_a_manifest_tells_results_of_any_suffix(folder, tmp_path, weights):
    link = tmp_path / "link"
    link.symlink_to(folder)
    options = ["-o", link, "-r", "-w", weights, "--manifest", tmp_path / "m.jsonl", "--json"]
    for suffix in ("big", "bigger", ""):
        result = run("upscale", folder, *options, "--suffix", suffix, "--ext", "webp")
        assert summary(result)["done"] == 2
        assert result.stderr == ""
    assert summary(run("upscale", folder, *options, "--suffix", "", "--ext", "webp"))["skipped"] == 2


def test_results_whose_photos_are_gone_are_no_photos_unless_they_are_named(folder, weights):
    (folder / "a.png").rename(folder / "c_x2.png")
    command = ["upscale", folder, "-o", folder, "-w", weights]
    result = run(*command, "-r", "--dry-run")
    assert result.stdout == f"{folder / 'deep/b.png'} -> {folder / 'deep/b_x2.png'}\n"
    reason = "skipped, because their names look like results of an earlier run (name a file to upscale it)"
    assert result.stderr == f"mrda: {reason}: {folder / 'c_x2.png'}\n"
    result = run(*command, folder / "c_x2.png", "--dry-run", "-r")
    assert f"{folder / 'c_x2.png'} -> {folder / 'c_x2_x2.png'}" in result.stdout.splitlines()
    assert result.stderr == ""
    result = run(*command)
    assert result.exit_code == 2
    assert result.stderr == "mrda: there is nothing to upscale: all files found are results of an earlier run\n"


def test_elsewhere_a_photo_may_be_named_as_results_are(folder, tmp_path, weights):
    (folder / "a.png").rename(folder / "c_x2.png")
    result = run("upscale", folder, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 0, result.stderr
    assert tree(tmp_path / "out") == ["c_x2_x2.png"]


@pytest.mark.parametrize("pattern", ["**/*.png", "**", "*"])
def test_patterns_leave_out_an_output_folder_below_them(folder, weights, pattern):
    shallow = pattern == "*"  # which matches the folder deep, too
    for _ in range(2):
        result = run("upscale", folder / pattern, "-o", folder / "o", "-w", weights, "--suffix", "", "--json")
        assert summary(result)["done"] == 2, (shallow, result.stdout)
    assert tree(folder) == ["a.png", "deep/b.png", "o/a.png", "o/b.png"]


def test_photos_below_the_output_folder_are_photos(folder, weights):
    for _ in range(2):
        assert run("upscale", folder / "deep", "-o", folder, "-w", weights).exit_code == 0
        assert run("upscale", folder / "deep" / "*", "-o", folder, "-w", weights).exit_code == 0
    assert tree(folder) == ["a.png", "b_x2.png", "deep/b.png"]


def test_a_pattern_that_nothing_matches_is_refused(folder, tmp_path, photo, weights):
    out = tmp_path / "out"
    for pattern in (folder / "*.jpg", tmp_path / "nowhere" / "*"):
        refused(run("upscale", photo, pattern, "-o", out, "-w", weights), out, f"nothing matches the pattern {pattern}")


def test_patterns_take_hidden_files_only_where_they_say_so(folder, tmp_path, weights):
    for name in (".hidden/c.png", ".d.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (5, 4)).save(folder / name)
    for pattern, count in (("**/*.png", 2), (".*/*.png", 1), (".*.png", 1)):
        result = run("upscale", folder / pattern, "-o", tmp_path / "out", "-w", weights, "--dry-run")
        assert len(result.stdout.splitlines()) == count, result.stdout


@pytest.mark.parametrize("name", ["in", "in/**/*.png"])
def test_symlinks_to_folders_are_not_followed_which_is_said_once(folder, tmp_path, weights, name, monkeypatch):
    (tmp_path / "other").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "other" / "c.png")
    (folder / "deep" / "link").symlink_to(tmp_path / "other")
    for loop in ("x", "y"):  # by which one would go on for ever
        (folder / loop).symlink_to(folder)
    result = run("upscale", tmp_path / name, "-r", "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 0, result.stderr
    assert "2 of 2 photos" in result.stdout
    if name == "in":
        assert one_sentence(result.stderr)
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert run("upscale", folder, "-r", "-o", tmp_path / "out", "-w", weights, "--dry-run").stderr == ""
        monkeypatch.undo()
        assert result.stderr.startswith(
            "mrda: skipped, because they are symlinks to folders (name a folder to include it): "
        )
        assert {str(folder / link) in result.stderr for link in ("deep/link", "x", "y")} == {True}
    assert "1 of 1 photos" in run("upscale", folder / "deep/link", "-o", tmp_path / "2", "-w", weights).stdout


def test_a_folder_that_can_t_be_read_fails_alone(folder, tmp_path, weights, monkeypatch):
    scan = os.scandir

    def locked(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", locked)
    command = ["upscale", folder, "-r", "-o", tmp_path / "out", "-w", weights]
    result = run(*command)
    assert result.exit_code == 1
    assert result.stderr == f"mrda: cannot read the folder {folder / 'deep'}: Permission denied\n"
    assert tree(tmp_path / "out") == ["a_x2.png"]
    assert "cannot read the folder" in run(*command, "--dry-run").stdout.splitlines()[1]
    for more in ([], ["--dry-run"]):
        assert "Permission denied" in json.loads(run(*command, "--json", *more).stdout)["failed"][0]["reason"]


def test_processes_share_photos_wherever_these_are_mounted(folder, tmp_path, weights, monkeypatch):
    for number in range(8):
        Image.new("RGB", (5, 4)).save(folder / f"{number}.png")
    monkeypatch.setenv("WORLD_SIZE", "3")
    done = []
    for rank in range(3):
        mount = tmp_path / f"mount{rank}"
        mount.symlink_to(tmp_path)
        monkeypatch.setenv("RANK", str(rank))
        result = run("upscale", mount / "in", "-r", "-o", mount / "out", "-w", weights, "--json")
        done += [Path(entry["target"]).name for entry in json.loads(result.stdout)["done"]]
    assert sorted(done) == sorted([*(f"{number}_x2.png" for number in range(8)), "a_x2.png", "b_x2.png"])


# Names


@pytest.fixture
def odd(tmp_path):
    """A photo whose name is no UTF-8."""
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("RGB", (5, 4)).save(path)
    except OSError:
        pytest.skip("this file system takes no such name")
    return path


def test_names_that_are_no_text_are_printed(tmp_path, odd, weights):
    out = tmp_path / os.fsdecode(b"\xff")
    command = ["upscale", odd, tmp_path / os.fsdecode(b"\xfe.png"), "-o", out, "-w", weights]
    result = run(*command, "--dry-run")
    assert result.exit_code == 0, result.exception
    assert result.stdout.splitlines()[0] == f"{tmp_path}/caf?.png -> {tmp_path}/?/caf?_x2.png"
    result = run(*command)
    assert result.exit_code == 1, result.exception
    assert os.listdir(os.fsencode(out)) == [b"caf\xe9_x2.png"]
    assert f"1 of 2 photos upscaled into {tmp_path}/?, 1 failed" in result.stdout
    assert "cannot read" in result.stderr
    facts = json.loads(run(*command, "--json").stdout)
    assert facts["done"] == [{"source": f"{tmp_path}/caf?.png", "target": f"{tmp_path}/?/caf?_x2.png"}]
    assert f"cannot read {tmp_path}/?.png" in facts["failed"][0]["reason"]


def test_the_future_as_json_leaves_out_what_is_done(folder, tmp_path, weights):
    out = tmp_path / "out"
    command = ["upscale", folder, "-r", "-o", out, "-w", weights, "--skip-existing"]
    planned = [{"source": str(folder / name), "target": str(out / name.replace(".", "_x2."))} for name in
               ("a.png", "deep/b.png")]  # fmt: skip
    assert json.loads(run(*command, "--dry-run", "--json").stdout) == {"planned": planned, "failed": []}
    assert not out.exists()
    out.mkdir()
    (out / "a_x2.png").touch()
    assert json.loads(run(*command, "--dry-run", "--json").stdout) == {"planned": planned[1:], "failed": []}
    assert run(*command, "--dry-run").stdout == f"{folder / 'deep/b.png'} -> {out / 'deep/b_x2.png'}\n"
    (out / "deep").mkdir()
    (out / "deep" / "b_x2.png").touch()
    assert run(*command, "--dry-run").stdout == "no photo is left to upscale\n"


def test_a_source_that_leads_out_of_the_output_folder_is_refused(tmp_path, weights):
    out = tmp_path / "out" / "in"
    for name in ("skimage:../../evil", "skimage:/evil"):
        refused(run("upscale", name, "-o", out, "-w", weights), out, f"{name} would be written outside of the output")


# Manifests


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fifo", "can't be a manifest, because it is not a regular file"),
        ("binary", "is not a manifest of `mrda upscale`: name another file"),
        ("list", "is not a manifest of `mrda upscale`: name another file"),
        ("loop", "can't be read"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, photo, weights, kind, words):
    path, out = tmp_path / "m.jsonl", tmp_path / "out"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\n")
    elif kind == "list":
        path.write_text('[]\n{"source": [], "target": {}, "weights": 1, "scale": 2}\n')
    else:
        path.symlink_to(path)
    refused(run("upscale", photo, "-o", out, "-w", weights, "--manifest", path), out, str(path), words)


def test_a_manifest_that_can_t_be_written_costs_no_photo_and_is_said_once(folder, tmp_path, weights):
    path, out = tmp_path / "m.jsonl", tmp_path / "out"
    path.symlink_to(tmp_path / "nowhere" / "m.jsonl")
    result = run("upscale", folder, "-r", "-o", out, "-w", weights, "--manifest", path)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert f"{path} can't be written, so finished photos are not recorded: No such file" in result.stderr
    assert tree(out) == ["a_x2.png", "deep/b_x2.png"]


def test_other_weights_and_another_scale_do_the_work_again(folder, tmp_path, weights):
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_network(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4), other)
    command = ["upscale", folder, "-o", tmp_path / "out", "--manifest", tmp_path / "m.jsonl", "--suffix", "", "--json"]
    for weights_file, scale, count in (
        (weights, "2", 1),
        (weights, "2", 0),
        (weights, "3", 1),
        (other, "3", 1),
        (other, "3", 0),
        (weights, "2", 1),  # which was done once, but has been overwritten
        (other, "3", 1),
    ):
        counts = summary(run(*command, "-w", weights_file, "-s", scale))
        assert (counts["done"], counts["skipped"]) == (count, 1 - count)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(other.read_bytes())
    assert summary(run(*command, "-w", copy, "-s", "3"))["skipped"] == 1


# The output folder


@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_nothing_is_written_through_a_symlink_out_of_the_output_folder(folder, tmp_path, weights, target):
    out, elsewhere = tmp_path / "out", tmp_path / target
    out.mkdir()
    if target == "elsewhere":
        elsewhere.mkdir()
    (out / "deep").symlink_to(elsewhere)
    result = run("upscale", folder, "-r", "-o", out, "-w", weights)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert (
        f"cannot write {out / 'deep' / 'b_x2.png'}: {out / 'deep'} is a symlink that leads out of the output folder"
        in result.stderr
    )
    assert (out / "a_x2.png").is_file()
    assert not elsewhere.exists() or not list(elsewhere.iterdir())


def test_an_output_folder_that_can_t_be_written_to_is_told_before_any_work(folder, tmp_path, weights, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK or Path(path) != out)  # root may write anywhere
    monkeypatch.setattr("mrda.upscale.upscaler.Upscaler.bands", None)
    result = run("upscale", folder, "-o", out, "-w", weights)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
    assert f"the folder {out} can't be written to" in result.stderr


def test_a_result_that_is_a_symlink_is_replaced_and_what_it_leads_to_is_left_alone(folder, tmp_path, weights):
    out, precious = tmp_path / "out", tmp_path / "precious.txt"
    precious.write_text("mine")
    out.mkdir()
    (out / "a_x2.png").symlink_to(precious)
    link = tmp_path / "link"
    link.symlink_to(out)  # the output folder itself may be one
    assert run("upscale", folder, "-r", "-o", link, "-w", weights).exit_code == 0
    assert precious.read_text() == "mine"
    assert not (out / "a_x2.png").is_symlink()
    assert tree(out) == ["a_x2.png", "deep/b_x2.png"]


def test_what_killed_processes_have_left_is_removed_and_nothing_else(folder, tmp_path, weights):
    out, yesterday = tmp_path / "out", time.time() - 25 * 60 * 60
    key, gone = temporary_key("a_x2.png"), temporary_key("gone_x2.png")
    left = [f".mrda-{gone}-0123abcd.png", f"deep/.mrda-{gone}-0123abcd.tif"]
    own = f".mrda-{key}-01234567.png"
    kept = [f".mrda-{gone}-0123abc.png", f".mrda-{gone}-0123abcd.txt", f"mrda-{gone}-0123abcd.png", f".mrda-{gone}.png"]
    new = f".mrda-{gone}-99999999.png"  # of another process, perhaps, that is writing it
    for name in (*left, *kept, own, new):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
        if name not in (own, new):
            os.utime(out / name, (yesterday, yesterday))
    (out / "a_x2.png").touch()
    assert run("upscale", folder, "-r", "-o", out, "-w", weights, "--skip-existing").exit_code == 0
    assert tree(out) == sorted([*kept, new, "a_x2.png", "deep/b_x2.png"])


def test_what_a_format_can_t_hold_is_said_before_it_is_computed(tmp_path, weights, monkeypatch):
    monkeypatch.setattr("mrda.upscale.upscaler.Upscaler.bands", None)
    Image.fromarray(np.zeros((1, 8192), np.uint8)).save(tmp_path / "wide.png")
    result = run("upscale", tmp_path / "wide.png", "-o", tmp_path / "out", "-w", weights, "--ext", "webp")
    assert result.exit_code == 1, result.exception
    assert "WebP holds at most 16383 x 16383 pixels, but the image has 16384 x 2" in result.stderr
    assert one_sentence(result.stderr)
    result = run("upscale", tmp_path / "wide.png", "-o", tmp_path / "out", "-w", weights, "--max-pixels", "8191")
    assert "it has 8192 x 1 = 8,192 pixels, more than the 8,191 that are allowed" in result.stderr


def test_photos_of_kinds_that_are_not_read_are_counted(folder, tmp_path, weights):
    for name in ("raw.CR2", "deep/raw.dng", "deep/clip.mov"):
        (folder / name).write_bytes(b"II*\0")
    result = run("upscale", folder, "-r", "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("left out 2 photos of kinds that are not read (1 .cr2, 1 .dng)") == 1
    assert tree(tmp_path / "out") == ["a_x2.png", "deep/b_x2.png"]
    (tmp_path / "raws").mkdir()
    (tmp_path / "raws" / "a.NEF").touch()
    result = run("upscale", tmp_path / "raws", "-o", tmp_path / "other", "-w", weights)
    refused(result, tmp_path / "other", "left out 1 photo of a kind that is not read (1 .nef)")


@pytest.mark.parametrize(("option", "expected"), [((), True), (("--lossy",), False), (("--lossless",), True)])
def test_a_lossless_webp_stays_lossless_unless_asked_otherwise(tmp_path, weights, option, expected):
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.webp", lossless=True)
    assert run("upscale", tmp_path / "a.webp", "-o", tmp_path, "-w", weights, *option).exit_code == 0
    assert (b"VP8L" in (tmp_path / "a_x2.webp").read_bytes()) == expected


def test_a_12_bit_photo_keeps_its_brightness(tmp_path, weights):
    levels = np.full((8, 12), 2048, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="minisblack", bitspersample=12, metadata=None)
    Image.new("L", (12, 8), 128).save(tmp_path / "b.png")
    assert run("upscale", tmp_path / "a.tif", tmp_path / "b.png", "-o", tmp_path, "-w", weights).exit_code == 0
    deep = tifffile.imread(tmp_path / "a_x2.tif")
    assert deep.dtype == np.uint16
    with Image.open(tmp_path / "b_x2.png") as image:
        np.testing.assert_allclose(deep / 257, np.asarray(image), atol=2)


@pytest.mark.parametrize("weights", [[], ["-w", "mrda-x4-noise"]])
@pytest.mark.parametrize("more", [[], ["-s", "3"], ["--suffix", "large"], ["--json"], ["--skip-existing"]])
def test_a_dry_run_without_torch_lists_what_one_with_torch_does(tmp_path, photo, weights, more):
    command = ("upscale", tmp_path, "-o", tmp_path / "out", *weights, *more, "--dry-run")
    light, whole = run(*command), run(*command, "--device", "cpu")
    assert (light.exit_code, light.stdout, light.stderr) == (0, whole.stdout, whole.stderr)
    assert "photo_" in light.stdout
