import json

import numpy as np
import pytest
import torch

from mrda.networks import MRDAStudent
from mrda.paper.studies import flicker
from mrda.upscale.upscaler import Upscaler


@pytest.fixture(scope="module")
def upscaler():
    torch.manual_seed(0)
    network = MRDAStudent(scale=4, num_feat=8, num_blocks=1, den_width=4)
    with torch.no_grad():
        network.rdan.compress.weight.mul_(100)  # so that the degradation matters
    return Upscaler(network, dtype=torch.float32)


def test_frames_of_a_clip_differ_in_their_noise_alone():
    still, noisy = (flicker.still_clip("skimage:astronaut", noise, 4, 2) for noise in (0, 10))
    np.testing.assert_array_equal(still[0], still[1])
    assert still[0].shape == (32, 32, 3)
    difference = noisy[1].astype(float) - noisy[0]
    assert difference.std() == pytest.approx(10 * 2**0.5, rel=0.1)


def test_smoothing_lessens_the_change(upscaler):
    clip = flicker.still_clip("skimage:astronaut", 10, 4, 8)
    without, smooth = (flicker.measure(upscaler, clip, share) for share in (0.0, 0.9))
    for key in ("vector", "by_vector"):
        assert smooth[key] < 0.5 * without[key]
    assert smooth["levels"] == pytest.approx(without["levels"], rel=0.1)


def test_the_command_writes_and_shows(tmp_path, upscaler, monkeypatch, capsys):
    monkeypatch.setattr(flicker.Upscaler, "from_pretrained", lambda *arguments, **options: upscaler)
    monkeypatch.setattr(flicker, "PHOTOS", ("skimage:astronaut",))
    flicker.main(["--frames", "2", "--json", str(tmp_path / "flicker.json")])
    records = json.loads((tmp_path / "flicker.json").read_text())["records"]
    assert len(records) == len(flicker.PURPOSES) * len(flicker.NOISES) * len(flicker.SMOOTH)
    assert capsys.readouterr().out.count("\n| mrda-x4 |") == 4
