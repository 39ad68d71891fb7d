import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from mrda.config.load import load_config
from mrda.degradations.classic import crop_to_multiple, degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.evaluation.metrics import psnr_y
from mrda.networks import MRDAStudent
from mrda.photo.images import read_rgb, to_tensor
from mrda.upscale.upscaler import Upscaler
from mrda_kernels import dispatch

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "demo.py"

FUSED = "cpu"  # the backend that serves CPU tensors where it has been built


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


@pytest.fixture
def upscaler():
    torch.manual_seed(0)
    return Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 50, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_scores_are_those_of_the_student_on_the_blurred_photo(demo, upscaler, photo):
    scores = demo.score(upscaler, [photo], [0.8, 1.6], Console(quiet=True))
    assert [(row.image, row.sigma) for row in scores] == [("noise", 0.8), ("noise", 1.6)]
    hr = crop_to_multiple(to_tensor(read_rgb(photo)), 2)
    sr = upscaler(degrade(hr, isotropic_gaussian(1.6), 2).lr)
    assert scores[1].psnr_mrda == float(psnr_y(sr, hr, 2))
    assert demo.mean_gain(scores) == pytest.approx(
        sum(row.psnr_mrda - row.psnr_bicubic for row in scores) / len(scores)
    )


def test_the_weights_of_the_package_are_shown_first(demo, photo, tmp_path, monkeypatch, upscaler):
    monkeypatch.setattr(demo.Upscaler, "from_pretrained", lambda name: upscaler)
    monkeypatch.setattr(demo, "default_weights", lambda: "our-x2")
    console = Console(width=200)
    with console.capture() as capture:
        shown = demo.show_shipped([photo], [tmp_path / "out" / "shipped.png"], console)
    row = demo.compare(upscaler, photo, demo.PICTURED_SIGMA)
    assert shown == {
        "weights": "our-x2",
        "sigma": demo.PICTURED_SIGMA,
        "gain_db": {"noise": pytest.approx(row.psnr_sr - row.psnr_bicubic)},
    }
    assert "The weights our-x2" in capture.get()
    assert (tmp_path / "out" / "shipped.png").is_file()


def test_table_shows_losses_as_well_as_gains(demo):
    rows = [demo.Score("cat", 0.8, 30.0, 29.5, 0.9, 0.8), demo.Score("cat", 1.6, 28.0, 29.0, 0.7, 0.75)]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(demo.score_table(rows, 4))
    text = capture.get()
    for words in ("cat", "30.00", "29.50", "-0.50", "+1.00", "0.7500"):
        assert words in text


def test_comparison_shows_the_student_and_its_modulation_map(demo, upscaler, photo):
    row = demo.compare(upscaler, photo, 1.6)
    assert row.hr.shape == row.sr.shape == row.bicubic.shape == (40, 50, 3)
    assert row.modulation.shape == (20, 25)
    assert 0 < row.modulation.min() < row.modulation.max() < 1
    np.testing.assert_array_equal(row.hr, read_rgb(photo)[:40])
    (score,) = demo.score(upscaler, [photo], [1.6], Console(quiet=True))
    assert (row.psnr_bicubic, row.psnr_sr) == (score.psnr_bicubic, score.psnr_mrda)
    hr = crop_to_multiple(to_tensor(read_rgb(photo)), 2)
    assert float(psnr_y(to_tensor(row.bicubic), hr, 2)) == pytest.approx(row.psnr_bicubic, rel=1e-6)
    assert float(psnr_y(to_tensor(row.sr), hr, 2)) == pytest.approx(row.psnr_sr, rel=1e-6)


def test_operator_is_timed_in_both_modes(demo):
    timings = demo.time_operator((1, 4, 8, 8), 2, Console(quiet=True))
    assert [timing.mode for timing in timings] == ["forward", "forward and backward"]
    assert all(timing.fused_ms > 0 and timing.eager_ms > 0 for timing in timings)


def test_the_backend_that_serves_is_named(demo, monkeypatch):
    for name in ("cpu", "reference"):
        if dispatch.load(name).why_not("cpu") is None:
            monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, name)
            assert demo.operator_backend() == name


@pytest.mark.parametrize(("package", "name"), [("skimage", "scikit-image"), ("matplotlib", "matplotlib")])
def test_missing_packages_are_noticed_before_the_training(demo, tmp_path, monkeypatch, package, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    monkeypatch.setattr("mrda.training.train", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(typer.BadParameter, match=name):
        demo.main(config="toy", output=tmp_path / "out", rounds=1)


def test_photos_that_were_trained_on_are_refused(demo):
    config = load_config("toy", ['data.sources=["skimage:chelsea"]'])
    with pytest.raises(typer.BadParameter, match="chelsea"):
        demo.unseen(demo.PHOTOS, config)


def test_the_demo_preset_keeps_the_test_photos_unseen(demo):
    assert demo.unseen(demo.PHOTOS, load_config("demo")) == demo.PHOTOS


def test_the_whole_demo_at_toy_size_trains_anew_each_time(demo, tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    app = typer.Typer()
    app.command()(demo.main)
    stamps = []
    for backend in ("reference", FUSED):
        if dispatch.load(backend).why_not("cpu") is not None:
            pytest.skip(f"the backend {backend} is missing")
        monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, backend)
        result = CliRunner().invoke(app, ["--config", "toy", "--output", str(tmp_path / "out"), "--rounds", "1"])
        assert result.exit_code == 0, result.output
        assert ("none to time" in result.output) == (backend == "reference")
        stamps.append((tmp_path / "out" / "run" / "student" / "weights.safetensors").stat().st_mtime_ns)
    assert stamps[0] < stamps[1]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert f"mean gain over bicubic: {results['mean_gain_db']:+.2f} dB" in result.output
    assert len(results["scores"]) == len(demo.PHOTOS) * len(demo.SIGMAS)
    assert results["operator_backend"] == FUSED
    assert f"fused (backend {FUSED})" in result.output.replace("\n", " ")
    assert {row["mode"] for row in results["operator"]} == {"forward", "forward and backward"}
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        picture.load()
