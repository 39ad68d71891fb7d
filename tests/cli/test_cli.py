import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mrda.cli.common
from mrda.cli import app
from mrda.inference import Upscaler
from mrda.networks import MLN, MRDAStudent, save_network

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = ("train", "upscale", "evaluate", "info")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*arguments, **options):
    """The command in a process of its own, as a person would run it."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "mrda", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,
    )


def one_sentence(text):
    return text.startswith("mrda: ") and text.count("\n") == 1 and "Traceback" not in text


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "student.safetensors"
    save_network(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4), path)
    return path


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)


@pytest.fixture
def photo(tmp_path, rgb):
    path = tmp_path / "photo.png"
    Image.fromarray(rgb).save(path)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: mrda {command}" in result.stdout


def test_help_lists_the_commands():
    result = run("--help")
    assert all(command in result.stdout for command in COMMANDS)


# --- upscale


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
    with Image.open(tmp_path / "out" / f"{Path(name).stem}_x2.png") as image:
        assert image.mode == expected
        assert image.size == (18, 14)


def test_upscale_turns_photos_upright(tmp_path, weights):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(tmp_path / "turned.jpg", exif=exif)
    assert run("upscale", tmp_path / "turned.jpg", "-o", tmp_path, "-w", weights).exit_code == 0
    with Image.open(tmp_path / "turned_x2.png") as image:
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
    upscale = Upscaler.__call__

    def short_of_memory(self, image):
        return upscale(self, image) if image.width < 99 else torch.empty(2**60)

    monkeypatch.setattr(Upscaler, "__call__", short_of_memory)
    result = run("upscale", tmp_path / "large.png", photo, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert f"cannot upscale {tmp_path / 'large.png'}: there is not enough memory" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo_x2.png"]


def test_upscale_hides_no_other_fault(tmp_path, photo, weights, monkeypatch):
    def broken(self, image):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Upscaler, "__call__", broken)
    result = run("upscale", photo, "-o", tmp_path / "out", "-w", weights)
    assert isinstance(result.exception, RuntimeError)


def test_upscale_tells_reading_from_writing(tmp_path, photo, weights, monkeypatch):
    def unplugged(source):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("mrda.images.read_image", unplugged)
    result = run("upscale", photo, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 1
    assert result.stderr == f"mrda: cannot read {photo}: Input/output error\n"


def test_upscale_reports_names_that_no_file_can_have(tmp_path, photo, weights):
    result = run("upscale", "x" * 300, photo, "-o", tmp_path / "out", "-w", weights)
    assert result.exit_code == 2 or result.stderr.startswith("mrda: cannot read xxx")
    assert one_sentence(result.stderr)
    result = run("upscale", photo, "-o", tmp_path / ("x" * 300), "-w", weights)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)


def test_the_bar_counts_failed_photos_too(tmp_path, photo, weights, monkeypatch):
    bars = []
    make = mrda.cli.common.progress_bar
    monkeypatch.setattr("mrda.cli.common.progress_bar", lambda console: bars.append(make(console)) or bars[-1])
    (tmp_path / "text.png").write_text("milk, bread\n")
    run("upscale", photo, tmp_path / "text.png", "-o", tmp_path / "out", "-w", weights)
    (task,) = bars[0].tasks
    assert task.completed == task.total == 2 * 2


def refused(result, out, *words):
    assert result.exit_code == 2
    assert one_sentence(result.stderr), result.stderr
    for word in words:
        assert word in result.stderr
    assert not out.exists()


def test_upscale_without_weights_says_how_to_get_some(tmp_path, photo):
    out = tmp_path / "out"
    refused(run("upscale", photo, "-o", out), out, "-w WEIGHTS", "mrda train --config demo", "make demo")


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


def test_upscale_refuses_two_photos_of_one_name(tmp_path, photo, weights):
    other = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(other)
    out = tmp_path / "out"
    refused(run("upscale", photo, other, "-o", out, "-w", weights), out, str(photo), str(other), "photo_x2.png")


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
    usage = start("upscale", photo, "-o", tmp_path / "none")
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
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    written = sorted(out.iterdir())
    assert 1 <= len(written) < len(photos)
    for path in written:
        with Image.open(path) as image:
            image.load()
            assert image.size == (320, 320)


# --- evaluate


@pytest.fixture
def folder(tmp_path, photo):
    folder = tmp_path / "SetA"
    folder.mkdir()
    photo.rename(folder / photo.name)
    return folder


def test_evaluate_prints_a_table_and_writes_json(tmp_path, folder, weights):
    scores = tmp_path / "scores.json"
    result = run("evaluate", "-w", weights, "--data", folder, "--json", scores)
    assert result.exit_code == 0, result.stderr
    datasets = json.loads(scores.read_text())["datasets"]
    assert list(datasets) == ["SetA"]
    assert list(datasets["SetA"]) == ["bicubic", "mrda_s"]
    for method, summary in datasets["SetA"].items():
        assert set(summary) == {"psnr_y", "ssim_y", "per_condition"}
        assert len(summary["per_condition"]) == 8
        assert "sigma=0.8" in summary["per_condition"]
        row = f"| SetA | {method} | {summary['psnr_y']:.2f} | {summary['ssim_y']:.4f} |"
        assert row in result.stdout


def test_evaluate_bicubic_needs_no_weights(tmp_path, folder):
    scores = tmp_path / "scores.json"
    result = run(
        "evaluate",
        "--method",
        "bicubic",
        "--protocol",
        "bicubic",
        "--scale",
        3,
        "--data",
        folder,
        "--json",
        scores,
    )
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(scores.read_text())["datasets"]["SetA"]) == ["bicubic"]


def test_evaluate_takes_several_folders(tmp_path, folder):
    other = tmp_path / "SetB"
    other.mkdir()
    Image.new("RGB", (40, 40), "red").save(other / "red.png")
    result = run("evaluate", "--method", "bicubic", "--protocol", "bicubic", "--scale", 2, "--data", folder, other)
    assert result.exit_code == 0, result.stderr
    assert "| SetA | bicubic |" in result.stdout
    assert "| SetB | bicubic |" in result.stdout


def test_evaluate_does_the_others_when_photos_fail(tmp_path, folder):
    (folder / "bad.png").write_text("milk, bread\n")
    Image.new("RGB", (8, 8)).save(folder / "small.png")
    result = run("evaluate", "--method", "bicubic", "--scale", 2, "--data", folder)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert "bad.png" in lines[0]
    assert "small.png" in lines[1]
    assert "| SetA | bicubic |" in result.stdout


def test_evaluate_refuses_wrong_usage(tmp_path, folder, weights):
    same_name = tmp_path / "other" / "SetA"
    same_name.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(same_name / "a.png")
    data = ("--data", folder)
    for arguments, word in (
        ((*data,), "-w WEIGHTS"),
        ((*data, "-w", tmp_path / "gone.safetensors"), "gone.safetensors"),
        ((*data, "-w", weights, "--scale", 4), "--scale is 4"),
        ((*data, "-w", weights, "--method", "lanczos"), "lanczos"),
        ((*data, "-w", weights, "--method", "bicubic"), "no weights"),
        ((*data, "-w", weights, "--protocol", "gaussian9"), "gaussian9"),
        ((*data, "--method", "bicubic", "--scale", 5), "5"),
        ((*data, "--method", "bicubic", "--scale", 0), "scale is 0"),
        ((*data, "-w", weights, "--scale", 0), "--scale is 0"),
        ((*data, "--method", "bicubic", "--json", tmp_path / "no" / "s.json"), "--json"),
        ((*data, "--method", "bicubic", "--json", tmp_path / ("x" * 300)), "--json"),
        (("--data", "x" * 300, "--method", "bicubic"), "xxx"),
        ((*data, same_name, "--method", "bicubic"), "SetA"),
        (("--data", tmp_path / "nowhere", "--method", "bicubic"), "nowhere"),
    ):
        result = run("evaluate", *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert one_sentence(result.stderr), result.stderr
        assert word in result.stderr


# --- train, info


def test_train_runs_the_chosen_stages(tmp_path):
    pytest.importorskip("skimage")
    result = run("train", "--config", "toy", "--run-dir", tmp_path / "run", "--stage", "bicubic", "--set", "seed=5")
    assert result.exit_code == 0, result.stderr
    assert f"bicubic: {tmp_path / 'run' / 'bicubic' / 'weights.safetensors'}" in result.stdout
    assert not (tmp_path / "run" / "meta").exists()
    assert "seed: 5" in (tmp_path / "run" / "config.yaml").read_text()


def test_train_goes_on_where_it_was_unless_told_otherwise(tmp_path):
    pytest.importorskip("skimage")
    arguments = ("train", "--config", "toy", "--run-dir", tmp_path / "run", "--stage", "bicubic")
    stamps = []
    for extra in ((), (), ("--no-resume",)):
        assert run(*arguments, *extra).exit_code == 0
        stamps.append((tmp_path / "run" / "bicubic" / "weights.safetensors").stat().st_mtime_ns)
    assert stamps[0] == stamps[1] < stamps[2]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--config", "nothing"), "nothing"),
        (("--config", "toy", "--set", "student.step=3"), "student.steps"),
        (("--config", "toy", "--set", "seed"), "seed"),
        (("--config", "toy", "--stage", "finish"), "finish"),
        (("--config", "toy", "--stage", "student"), "weights"),
        (("--config", "x" * 300), "presets"),
    ],
)
def test_train_refuses_wrong_usage(tmp_path, arguments, word):
    out = tmp_path / "run"
    refused(run("train", "--run-dir", out, *arguments), out, word)


def test_train_names_a_photo_that_is_not_there(tmp_path):
    run_dir = tmp_path / "run"
    result = run("train", "--config", "toy", "--set", "data.sources=[nowhere.png]", "--run-dir", run_dir)
    assert result.exit_code == 2
    assert result.stderr == "mrda: cannot read nowhere.png: there is no such file\n"


def test_train_refuses_a_file_as_run_directory(tmp_path, photo):
    result = run("train", "--config", "toy", "--run-dir", photo, "--stage", "bicubic")
    assert result.exit_code == 2
    assert one_sentence(result.stderr), result.stderr
    assert str(photo) in result.stderr


def test_train_hides_no_fault_of_the_training(tmp_path, monkeypatch):
    pytest.importorskip("skimage")

    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr("mrda.training.pipeline.run_stage", broken)
    result = run("train", "--config", "toy", "--run-dir", tmp_path / "run", "--stage", "bicubic")
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1


def test_info_shows_versions_and_backends():
    result = run("info")
    assert result.exit_code == 0, result.stderr
    assert torch.__version__.split("+")[0] in result.stdout
    assert "reference" in result.stdout


def test_info_shows_what_a_weights_file_holds(weights):
    result = run("info", weights)
    assert result.exit_code == 0, result.stderr
    network = MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4)
    count = sum(p.numel() for p in network.parameters())
    for words in ("MRDAStudent", f"{count:,}"):
        assert words in result.stdout
    assert "scale         2" in result.stdout


def test_info_refuses_what_holds_no_weights(tmp_path, photo):
    result = run("info", photo)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
