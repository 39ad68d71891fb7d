import itertools
import json

import pytest
import torch

from mrda.app.probe import LEAVES, SCENES, SIDE, dead_leaves, make_probe, trained_on
from mrda.degradations.classic import crop_to_multiple, degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.networks import MRDAStudent, save_network
from mrda.photo.images import read_rgb, to_tensor


def sharpness(lr):
    """An IDR that distinguishes blurs: the ratios of successive differences of neighbouring pixels."""
    sizes = [lr.diff(n=order, dim=3).abs().mean(dim=(1, 2, 3)) for order in (1, 2, 3, 4)]
    ratios = torch.stack([higher / lower for lower, higher in itertools.pairwise(sizes)], dim=1)
    return torch.cat([ratios, ratios**2], dim=1)


@pytest.fixture
def network():
    return MRDAStudent(scale=4, num_feat=8, num_blocks=1, den_width=4)


def test_an_idr_that_tells_blurs_apart_gives_their_widths(network, monkeypatch):
    monkeypatch.setattr(network, "degradation", sharpness)
    probe = make_probe(network)
    assert probe.useful
    assert probe.sigma_range == (0.2, 4.0)
    photo = crop_to_multiple(to_tensor(read_rgb("skimage:chelsea")), 4)
    estimates = [
        float(probe(sharpness(degrade(photo, isotropic_gaussian(sigma), 4).lr))) for sigma in (1.0, 2.0, 3.0, 4.0)
    ]
    assert estimates == sorted(set(estimates))
    leaves = dead_leaves().flip(3)
    for sigma in (1.0, 3.0):
        blurred = degrade(leaves, isotropic_gaussian((sigma**2 + 0.7**2) ** 0.5), 4).lr
        assert float(probe(sharpness(blurred)).mean()) == pytest.approx(sigma, abs=2 * probe.error)
    assert probe(1e6 * sharpness(blurred)).tolist() in ([0.2] * SCENES, [4.0] * SCENES)


def test_an_idr_that_does_not_is_no_good(network, monkeypatch):
    assert not make_probe(network).useful  # its training would have to be
    monkeypatch.setattr(network, "degradation", lambda lr: torch.ones(len(lr), 16))
    constant = make_probe(network)
    assert not constant.useful
    assert constant(torch.ones(1, 16)).tolist() == pytest.approx([2.1])


def test_dead_leaves_are_the_same_always_and_cover_the_scene():
    scenes = dead_leaves()
    assert scenes.shape == (SCENES, 3, SIDE, SIDE)
    assert torch.equal(scenes, dead_leaves())
    assert 0 <= scenes.min() < 0.1
    assert 0.9 < scenes.max() <= 1
    colours = {tuple(pixel) for pixel in scenes[0].flatten(1).T.tolist()}
    assert LEAVES / 10 < len(colours) <= LEAVES + 1


CLASSIC = {
    "scale": 4,
    "degradation.type": "classic",
    "degradation.kernel": "isotropic",
    "degradation.sigma_range": None,
    "degradation.aniso_param": "sigma",
    "degradation.noise_range": [0.0, 0.0],
}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (CLASSIC, "isotropic Gaussian blur of 0.2 to 4 px, bicubic downsampling"),
        (
            {**CLASSIC, "degradation.sigma_range": [1, 3.5], "degradation.noise_range": [0.0, 25.0]},
            "isotropic Gaussian blur of 1 to 3.5 px, bicubic downsampling and noise of 0 to 25 / 255",
        ),
        (
            {**CLASSIC, "degradation.kernel": "anisotropic", "degradation.aniso_param": "eigen"},
            "anisotropic Gaussian blur of 0.2 to 4 px squared, bicubic downsampling",
        ),
        ({**CLASSIC, "degradation.kernel": "none"}, "no blur, bicubic downsampling"),
        (
            {"degradation.type": "real"},
            "simulated real degradations: blur, resizing, noise and JPEG, each applied twice",
        ),
        ({}, None),
        ([], None),
    ],
)
def test_weights_say_what_they_were_trained_on(tmp_path, network, recipe, words):
    save_network(network, tmp_path / "w.safetensors", recipe=json.dumps(recipe))
    assert trained_on(tmp_path / "w.safetensors") == words
    assert trained_on(tmp_path / "w.pth") is None
