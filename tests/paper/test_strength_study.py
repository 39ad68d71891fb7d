"""The study of the strength between two weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import mrda.paper.studies.strength as study


class Scaled:
    """Enlarges by a factor of the photo's deviations from gray, as weights of a strength might."""

    scale = 2

    def __init__(self, strength):
        self.factor = 1 - 0.5 * strength

    def __call__(self, image):
        deviations = (np.asarray(image, np.float64) - 128) * self.factor
        return np.uint8(np.clip(np.rint(deviations + 128), 0, 255)).repeat(2, axis=0).repeat(2, axis=1)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(90, 160, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def known_strengths(monkeypatch):
    monkeypatch.setattr(study, "load_between", lambda weights, strength: (strength, {}))
    monkeypatch.setattr(study, "Upscaler", lambda strength, dtype: Scaled(strength))


def test_what_is_left_is_measured_drawn_and_said(tmp_path, photos, capsys):
    file, figure = tmp_path / "out.json", tmp_path / "out.png"
    study.main(["--weights", "a", "--data", str(photos), "--json", str(file), "--figure", str(figure)])
    records = json.loads(file.read_text())
    assert [(record["photo"], record["condition"]) for record in records] == [
        (str(number), condition) for number in range(2) for condition in ("clean", *map(str, study.CONDITIONS))
    ]
    for record in records:
        assert len(record["psnr_y"]) == 5
        if record["condition"] == "clean":
            assert "left" not in record
        else:
            assert record["left"][4] == pytest.approx(record["left"][0] / 2, rel=0.1)
            assert study.falls(record["left"])
    noisy = next(record for record in records if record["condition"] == "noise 10")
    assert noisy["left"][0] == pytest.approx(10, rel=0.1)
    assert capsys.readouterr().out.count("| 100% |") == len(study.CONDITIONS)
    with Image.open(figure) as image:
        assert image.width > 400


def test_less_must_be_left_at_every_step():
    assert study.falls([3, 2, 1])
    assert not study.falls([3, 1, 2])
    assert not study.falls([3, 3, 1])


def test_the_same_photo_gets_the_same_noise(photos):
    torch.manual_seed(1)
    first = study.study("a", [photos / "0.png"])
    torch.manual_seed(2)
    assert study.study("a", [photos / "0.png"]) == first
