import errno
import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import one_sentence, refused, run, start
from PIL import Image
from recorder import Recorder

from mrda.networks import MLN, save_network
from mrda.upscale.choice import PURPOSES
from mrda.upscale.upscaler import Upscaler


def test_upscale_writes_what_the_upscaler_gives(tmp_path, photo, rgb, weights):
    result = run("upscale", photo, "-o", tmp_path / "deep" / "out", "-w", weights)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    (written,) = (tmp_path / "deep" / "out").iterdir()
    assert written.name == "photo_x2.png"
    expected = Upscaler.from_pretrained(weights, device="cpu")(rgb)
    np.testing.assert_array_equal(np.asarray(Image.open(written)), expected)


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("gray.png", "L", "L"),
        ("deep.png", "I;16", "I;16"),
        ("alpha.png", "RGBA", "RGBA"),
        ("palette.gif", "P", "RGB"),
        ("print.jpg", "CMYK", "RGB"),
    ],
)
def test_upscale_serves_all_kinds_of_photos(tmp_path, weights, name, mode, expected):
    Image.new(mode, (9, 7)).save(tmp_path / name)
    result = run("upscale", tmp_path / name, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 0, result.stderr
    suffix = ".jpg" if name == "print.jpg" else ".png"
    with Image.open(tmp_path / "out" / f"{Path(name).stem}_x2{suffix}") as image:
        assert image.mode == expected
        assert image.size == (18, 14)


def test_upscale_turns_photos_upright(tmp_path, weights):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(tmp_path / "turned.jpg", exif=exif)
    assert run("upscale", tmp_path / "turned.jpg", "-o", tmp_path, "-w", weights).exit_code == 0
    with Image.open(tmp_path / "turned_x2.jpg") as image:
        assert image.size == (16, 24)
        assert not image.getexif()


def test_upscale_does_the_others_when_photos_fail(tmp_path, photo, weights):
    (tmp_path / "text.png").write_text("milk, bread\n")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:900])
    bad = [tmp_path / name for name in ("text.png", "empty.png", "cut.png", "missing.png")]
    result = run("upscale", *bad[:2], photo, *bad[2:], "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo_x2.png"]
    lines = result.stderr.splitlines()
    assert len(lines) == len(bad)
    for line, path in zip(lines, bad, strict=True):
        assert line.startswith(f"mrda: cannot read {path}: ")
    assert "1 of 5 photos" in result.stdout


def test_upscale_takes_folders(tmp_path, photo, weights):
    result = run("upscale", tmp_path, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / "photo_x2.png").is_file()


def test_upscale_reports_a_photo_it_cannot_write(tmp_path, photo, weights):
    (tmp_path / "out" / "photo_x2.png").mkdir(parents=True)
    result = run("upscale", photo, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "cannot write" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo_x2.png"]


def test_upscale_reports_a_photo_too_large_for_the_memory(tmp_path, photo, weights, monkeypatch):
    Image.new("RGB", (99, 9)).save(tmp_path / "large.png")
    bands = Upscaler.bands

    def short_of_memory(self, pixels, progress):
        return bands(self, pixels, progress) if pixels.shape[1] < 99 else iter([torch.empty(2**60)])

    monkeypatch.setattr(Upscaler, "bands", short_of_memory)
    result = run("upscale", tmp_path / "large.png", photo, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert f"cannot upscale {tmp_path / 'large.png'}: there is not enough memory" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo_x2.png"]


def test_upscale_hides_no_other_fault(tmp_path, photo, weights, monkeypatch):
    def broken(self, pixels, progress):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Upscaler, "bands", broken)
    result = run("upscale", photo, "-o", tmp_path / "out", "-w", weights)
    assert isinstance(result.exception, RuntimeError)


def test_upscale_tells_reading_from_writing(tmp_path, photo, weights, monkeypatch):
    def unplugged(source, max_pixels):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("mrda.upscale.batch.read_photo", unplugged)
    result = run("upscale", photo, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 1
    assert result.stderr == f"mrda: cannot read {photo}: the disk reports an input/output error\n"


def test_upscale_reports_names_that_no_file_can_have(tmp_path, photo, weights):
    result = run("upscale", "x" * 300, photo, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 2 or result.stderr.startswith("mrda: cannot read xxx")
    assert one_sentence(result.stderr)
    result = run("upscale", photo, "-o", tmp_path / ("x" * 300), "-w", weights)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)


def test_the_bar_counts_failed_photos_too(tmp_path, photo, weights, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("mrda.cli.upscale.TerminalProgress", lambda: recorder)
    (tmp_path / "text.png").write_text("milk, bread\n")
    run("upscale", photo, tmp_path / "text.png", "-o", tmp_path / "out", "-w", weights)
    assert recorder.told[-1] == ("upscaling", 2, 2)


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_upscale_refuses_bad_weights(tmp_path, photo, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    refused(run("upscale", photo, "-o", out, "-w", tmp_path / name), out, name)


def test_upscale_refuses_the_weights_of_another_network(tmp_path, photo):
    save_network(MLN(scale=2, num_feat=8, num_body=1), tmp_path / "mln.safetensors")
    out = tmp_path / "out"
    refused(run("upscale", photo, "-o", out, "-w", tmp_path / "mln.safetensors"), out, "MLN", "MRDAStudent")


def test_two_photos_of_one_name_are_both_done_as_a_dry_run_says(tmp_path, photo, weights):
    other, out = tmp_path / "photo.gif", tmp_path / "out"
    Image.new("P", (8, 8)).save(other)
    command = ["upscale", photo, other, "-o", out, "-w", weights, "--json", "--skip-existing"]
    manifest = ["--manifest", tmp_path / "m.jsonl"]
    planned = json.loads(run(*command, "--dry-run").stdout)["planned"]
    result = run(*command, *manifest)
    assert result.exit_code == 0
    assert one_sentence(result.stderr.splitlines(keepends=True)[0])
    assert f"another result has the plain one: {other} -> {out / 'photo_gif_x2.png'}" in result.stderr
    done = [{key: entry[key] for key in ("source", "target")} for entry in json.loads(result.stdout)["done"]]
    assert done == planned
    assert [Path(entry["target"]).name for entry in planned] == ["photo_x2.png", "photo_gif_x2.png"]
    assert Image.open(out / "photo_gif_x2.png").size == (16, 16)
    for more in ([], manifest):
        assert len(json.loads(run(*command, *more).stdout)["skipped"]) == 2


def test_upscale_never_overwrites_a_photo(tmp_path, photo, weights):
    output = tmp_path / "photo_x2.png"
    Image.new("RGB", (8, 8)).save(output)
    before = output.read_bytes()
    result = run("upscale", photo, output, "-o", tmp_path, "-w", weights)
    refused(result, tmp_path / "photo_x2_x2.png", "photo_x2.png", "overwritten")
    assert output.read_bytes() == before


def test_upscale_refuses_a_file_as_folder_and_an_empty_folder(tmp_path, photo, weights):
    result = run("upscale", photo, "-o", photo, "-w", weights)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    refused(run("upscale", empty, "-o", out, "-w", weights), out, "holds no image")


def test_exit_codes_and_stderr_of_the_real_command(tmp_path, photo, weights):
    (tmp_path / "text.png").write_text("milk, bread\n")
    bad = start("upscale", tmp_path / "text.png", photo, "-o", tmp_path / "out", "-w", weights)
    _, stderr = bad.communicate()
    assert bad.returncode == 1
    assert one_sentence(stderr), stderr
    assert (tmp_path / "out" / "photo_x2.png").is_file()
    usage = start("upscale", photo, "-o", tmp_path / "none", "-w", tmp_path / "nowhere.safetensors")
    _, stderr = usage.communicate()
    assert usage.returncode == 2
    assert one_sentence(stderr), stderr
    assert not (tmp_path / "none").exists()


def test_ctrl_c_ends_with_130_and_leaves_whole_files_only(tmp_path, weights):
    photos = [tmp_path / "in" / f"{i:03}.png" for i in range(200)]
    photos[0].parent.mkdir()
    for path in photos:
        Image.new("RGB", (160, 160)).save(path)
    out = tmp_path / "out"
    # In a session of its own, or the test run would see the signal too.
    process = start("upscale", photos[0].parent, "-o", out, "-w", weights, start_new_session=True)
    while process.poll() is None and not (out.is_dir() and any(out.glob("[0-9]*.png"))):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert one_sentence(stderr), stderr
    written = sorted(out.iterdir())
    done = len(written)
    assert 1 <= done < len(photos)
    assert stderr.startswith(f"mrda: stopped: {done} of 200 photos are done and whole; {photos[done]} and ")
    assert stderr.endswith("more not: the same command with --skip-existing continues\n")
    assert stdout.startswith(f"{done} of 200 photos upscaled into {out}")
    for path in written:
        with Image.open(path) as image:
            image.load()
            assert image.size == (320, 320)


def test_upscale_options_say_what_is_written(tmp_path, photo, weights):
    out = tmp_path / "out"
    options = ("--suffix", "out", "--ext", "webp", "--scale", "3", "--tile", "8", "--dtype", "fp32", "--device", "cpu")
    result = run("upscale", photo, "-o", out, "-w", weights, *options)
    assert result.exit_code == 0, result.stderr
    with Image.open(out / "photo_out.webp") as image:
        assert image.size == (90, 72)


def test_upscale_tells_the_future_without_a_trace(tmp_path, photo, weights):
    out = tmp_path / "out"
    result = run("upscale", tmp_path, "-o", out, "-w", weights, "--dry-run")
    assert result.exit_code == 0
    assert result.stdout == f"{photo} -> {out / 'photo_x2.png'}\n"
    assert not out.exists()


def test_results_are_written_beside_the_photos_unless_a_folder_is_named(tmp_path, photo, weights, monkeypatch):
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (9, 7)).save(tmp_path / "deep" / "photo.png")
    for _ in range(2):  # the results are no photos the second time
        result = run("upscale", tmp_path, "-r", "-w", weights)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == "2 of 2 photos upscaled beside the originals\n"
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*_x2.png")) == [
        "deep/photo_x2.png",
        "photo_x2.png",
    ]
    monkeypatch.chdir(tmp_path / "deep")
    assert run("upscale", "../photo.png", "-w", weights, "--suffix", "y").exit_code == 0
    assert (tmp_path / "photo_y.png").is_file()
    refused(run("upscale", photo, "-w", weights, "--suffix", ""), tmp_path / "out", "would be overwritten")


def test_beyond_the_scale_of_the_weights_resampling_is_said(tmp_path, photo, weights):
    result = run("upscale", photo, "-o", tmp_path / "out", "-w", weights, "-s", "3")
    assert (
        result.stderr == "mrda: -s 3: the weights enlarge by 2; all beyond that is resampling, which adds no detail\n"
    )
    assert run("upscale", photo, "-o", tmp_path / "out", "-w", weights, "-s", "1.5").stderr == ""


def test_the_choice_by_the_photo_is_said(tmp_path):
    Image.fromarray(np.uint8(np.mgrid[:12, :12].sum(axis=0))).save(tmp_path / "clean.png")
    Image.new("RGB", (12, 12)).save(tmp_path / "worn.jpg", quality=5)
    Image.new("RGB", (12, 12)).save(tmp_path / "web.jpg", quality=50)
    result = run("upscale", tmp_path, "-o", tmp_path / "out", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    assert f"mrda: {tmp_path / 'clean.png'}: it looks clean: enlarged by mrda-x4, for soft" in result.stderr
    facts = {Path(entry["source"]).name: entry for entry in json.loads(result.stdout)["done"]}
    assert (facts["clean.png"]["weights"], facts["clean.png"]["why"]) == ("mrda-x4", "it looks clean")
    assert "strength" not in facts["clean.png"]
    assert (facts["web.jpg"]["weights"], facts["web.jpg"]["strength"]) == ("mrda-x4-real", 0.75)
    assert facts["worn.jpg"]["weights"] is None
    result = run("upscale", tmp_path, "-w", "auto", "-o", tmp_path / "out", "--device", "cpu")
    assert "3 of 3 photos upscaled into" in result.stdout
    assert ", 1 by mrda-x4 and 1 by mrda-x4-real and 1 by Lanczos" in result.stdout


def test_help_names_the_shipped_weights_and_what_suits_what():
    text = " ".join(run("upscale", "--help").stdout.replace("│", " ").split())
    for name, purpose in PURPOSES.items():
        assert f"{name} for {purpose.suits}" in text
    assert "[default: auto]" in text


def test_upscale_reports_as_json(tmp_path, photo, weights):
    out = tmp_path / "out"
    Image.new("CMYK", (9, 7)).save(tmp_path / "print.jpg")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:900])
    run("upscale", photo, "-o", out, "-w", weights)
    result = run("upscale", tmp_path, "-o", out, "-w", weights, "--skip-existing", "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert [Path(entry["source"]).name for entry in facts["skipped"]] == ["photo.png"]
    assert facts["done"] == [
        {
            "source": str(tmp_path / "print.jpg"),
            "target": str(out / "print_x2.jpg"),
            "notices": ["CMYK became RGB"],
        }
    ]
    (failed,) = facts["failed"]
    assert failed["reason"].startswith(f"cannot read {tmp_path / 'cut.png'}: ")
    assert f"mrda: {tmp_path / 'print.jpg'}: CMYK became RGB" in result.stderr


def test_upscale_refuses_a_photo_of_too_many_pixels(tmp_path, photo, weights):
    limit = Image.MAX_IMAGE_PIXELS
    result = run("upscale", photo, "-o", tmp_path / "out", "-w", weights, "--max-pixels", "719")
    assert result.exit_code == 1
    assert "it has 30 x 24 = 720 pixels, more than the 719 that are allowed" in result.stderr
    assert Image.MAX_IMAGE_PIXELS == limit is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tile", "large"], ["--tile is 'large', but must be a number of pixels or auto"]),
        (["--device", "abacus"], ["--device abacus can't be used"]),
        (["--scale", "0"], ["--scale is 0, but must be from 0.1 to 16"]),
        (["--suffix", "a/b"], ["--suffix is 'a/b', but must not contain a slash"]),
        (["--manifest", "/nowhere/m.jsonl"], ["--manifest must be a file in an existing folder"]),
    ],
)
def test_upscale_refuses_wrong_options(tmp_path, photo, weights, options, words):
    out = tmp_path / "out"
    refused(run("upscale", photo, "-o", out, "-w", weights, *options), out, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--tile 0 --tile-pad 8", "--tile-pad 8 is for tiles, and --tile 0 makes none"),
        ("--ext png --lossless", "--lossless is for WebP, and --ext png writes none"),
        ("--ext jpg --lossy", "--lossy is for WebP, and --ext jpg writes none"),
        ("--ext tiff --quality 50", "--quality 50 is for lossy formats, and --ext tiff writes without loss"),
        ("--ext webp --lossless --quality 95", "--quality 95 is for lossy formats, and --lossless writes without loss"),
    ],
)
def test_upscale_refuses_options_that_others_leave_without_effect(tmp_path, photo, weights, options, words):
    out = tmp_path / "out"
    refused(run("upscale", photo, "-o", out, "-w", weights, *options.split()), out, f"{words}: leave out one of them")


def test_two_processes_one_of_them_killed_lose_nothing_and_do_nothing_twice(tmp_path, weights):
    folder, out, manifest = tmp_path / "in", tmp_path / "out", tmp_path / "manifest.jsonl"
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (96, 96), (number, 0, 0)).save(folder / f"{number:03}.png")
    command = ("upscale", folder, "-o", out, "-w", weights, "--manifest", manifest, "--json", "--jobs", "1")

    def process(rank):
        return start(*command, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"})

    targets = [out / f"{number:03}_x2.png" for number in range(24)]
    share = [str(target) for target in targets if zlib.crc32(target.name.encode()) % 2 == 0]
    assert 3 < len(share) < 21

    def noted():
        lines = manifest.read_text().splitlines() if manifest.is_file() else []
        return {json.loads(line)["target"] for line in lines}

    killed, other = process(0), process(1)
    while killed.poll() is None and not noted() & set(share):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    first, _ = other.communicate()
    done_before = {json.loads(line)["source"] for line in manifest.read_text().splitlines()}
    assert 24 - len(share) < len(done_before) < 24, "the process was killed before or after its work"
    kept = {
        path: path.stat().st_mtime_ns
        for path in out.glob("[0-9]*.png")
        if str(folder / f"{path.stem[:3]}.png") in done_before
    }

    again, _ = process(0).communicate()
    counts = {state: len(entries) for state, entries in json.loads(again).items()}
    assert counts["failed"] == 0
    assert counts["skipped"] == len(done_before) - (24 - len(share))
    assert counts["done"] == 24 - len(done_before)
    assert len(json.loads(first)["done"]) == 24 - len(share)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        f"{n:03}_x2.png" for n in range(24)
    ]
    for path, written in kept.items():
        assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("photo.png -o s3://b/out", "s3://b/out is in an object store, which --engine ray reads and writes: add it"),
        ("s3://b/in -o {out}", "s3://b/in is in an object store, which --engine ray reads and writes: add it"),
        ("photo.png -o {out} --workers 2", "--workers 2 is for --engine ray: add it, or leave out --workers"),
        ("photo.png -o {out} --cores 2", "--cores 2 is for --engine ray"),
        ("photo.png --engine ray", "--engine ray continues by what exists in the output folder: name it with -o"),
        ("photo.png -o {out} --engine ray --manifest m.jsonl", "--manifest is for --engine local"),
        ("photo.png -o {out} --engine ray --device cuda:1", "--device is 'cuda:1', but must be cpu or cuda"),
    ],
)
def test_an_engine_refuses_what_only_the_other_can_do(tmp_path, photo, weights, options, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    refused(run("upscale", *options.format(out=out).split(), "-w", weights), out, words)


def test_ray_under_torchrun_or_without_its_packages_is_refused(tmp_path, photo, weights, monkeypatch):
    out = tmp_path / "out"
    command = ("upscale", photo, "-o", out, "-w", weights, "--engine", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(run(*command), out, "--engine ray needs ray[data]: pip install './mrda[ray]'")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(run(*command), out, "start it once, without torchrun or accelerate launch")
