"""`mrda evaluate --peers`."""

import json
import sys

import numpy as np
import pytest
import spandrel_stub
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from mrda.cli import app
from mrda.evaluation.protocols import evaluate
from mrda.networks import MRDAStudent, save_network


@pytest.fixture(autouse=True)
def spandrel(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", spandrel_stub.module())


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "SetA"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "student.safetensors"
    save_network(MRDAStudent(scale=2, num_feat=8, num_blocks=1, den_width=4), path)
    return path


@pytest.fixture
def peers(tmp_path):
    paths = [tmp_path / "SwinIR.pth", tmp_path / "RCAN.pth"]
    for offset, path in enumerate(paths):
        torch.save(spandrel_stub.network(offset=offset / 8), path)
    return paths


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_peers_stand_in_the_same_table(tmp_path, folder, weights, peers):
    scores = tmp_path / "scores.json"
    first, second = peers
    for arguments in (
        ("--peers", first, second, "--data", folder),
        ("--data", folder, "--peers", first, "--peers", second),
    ):
        result = run("-w", weights, *arguments, "--protocol", "bicubic", "--json", scores)
        assert result.exit_code == 0, result.stderr
        datasets = json.loads(scores.read_text())["datasets"]
        assert list(datasets["SetA"]) == ["bicubic", "mrda_s", "SwinIR", "RCAN"]
    methods = {
        "SwinIR": lambda sample: F.interpolate(sample.lr, scale_factor=2),
        "RCAN": lambda sample: F.interpolate(sample.lr, scale_factor=2) + 1 / 8,
    }
    for record in evaluate(methods, [folder / "photo.png"], "bicubic", 2):
        assert datasets["SetA"][record.method]["psnr_y"] == record.psnr_y
        assert f"| SetA | {record.method} | {record.psnr_y:.2f} |" in result.stdout


@pytest.mark.parametrize("more", [(), ("--method", "bicubic")])
def test_peers_need_no_weights_and_bring_their_scale(tmp_path, folder, peers, more):
    scores = tmp_path / "scores.json"
    result = run("--data", folder, "--peers", peers[0], *more, "--json", scores)
    assert result.exit_code == 0, result.stderr
    measured = json.loads(scores.read_text())["datasets"]["SetA"]
    assert list(measured) == ["bicubic", "SwinIR"]
    assert next(iter(measured["SwinIR"]["per_condition"])) == "sigma=0.8"


def test_wrong_peers_are_refused_in_one_sentence(tmp_path, folder, weights, peers, monkeypatch):
    (tmp_path / "more").mkdir()
    for name in ("more/SwinIR.pth", "mrda_s.pth", "bicubic.pth"):
        torch.save(spandrel_stub.network(), tmp_path / name)
    torch.save(spandrel_stub.network(scale=4), tmp_path / "large.pth")
    torch.save(spandrel_stub.network(purpose="FaceSR"), tmp_path / "face.pth")
    data = ("--data", folder, "-w", weights)
    cases = [
        ((*data, "--peers", tmp_path / "gone.pth"), "no weights file"),
        ((*data, "--peers", peers[0], tmp_path / "gone.pth"), "no weights file"),
        ((*data, "--peers", tmp_path / "large.pth"), "upscales by 4, but must upscale by 2"),
        (("--data", folder, "--scale", 3, "--peers", peers[0]), "upscales by 2, but must upscale by 3"),
        ((*data, "--peers", tmp_path / "face.pth"), "must hold one for SR"),
        ((*data, "--peers", peers[0], tmp_path / "more" / "SwinIR.pth"), "that name is taken"),
        ((*data, "--peers", tmp_path / "mrda_s.pth"), "that name is taken"),
        (("--data", folder, "--peers", tmp_path / "bicubic.pth"), "that name is taken"),
        (("--data", folder, "--peers", peers[0], "--method", "mrda_s"), "-w WEIGHTS"),
    ]
    for arguments, words in cases:
        result = run(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert result.stderr.startswith("mrda: ")
        assert result.stderr.count("\n") == 1
        assert words in result.stderr, result.stderr
    monkeypatch.setitem(sys.modules, "spandrel", None)
    result = run(*data, "--peers", peers[0])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "pip install './mrda[peers]'" in result.stderr


def test_a_photo_that_a_peer_cannot_take_is_reported(tmp_path, folder):
    torch.save(spandrel_stub.network(smallest=15), tmp_path / "large.pth")
    Image.new("RGB", (40, 40), "red").save(folder / "red.png")
    result = run("--data", folder, "--peers", tmp_path / "large.pth", "--protocol", "bicubic")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "photo.png: large can't upscale an LR of 12x15 pixels" in result.stderr
    assert "| SetA | large |" in result.stdout
