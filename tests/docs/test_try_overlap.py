"""The measurement of what the tiles of the page "Try it here" leave out."""

import sys

import numpy as np
import pytest
import torch
from blocks import REPOSITORY

from mrda.networks import MRDAStudent

sys.path.append(str(REPOSITORY / "docs" / "try"))
import overlap


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)


def test_tiles_that_see_all_that_the_network_does_change_nothing_visible(network, noise):
    reach = network.rdan.reach
    found = overlap.change(network, noise, tile=2 * reach + 16, pad=reach)
    assert found.most <= 1
    assert found.share < 1e-3


def test_tiles_that_see_nothing_around_them_change_the_picture(network, noise):
    found = overlap.change(network, noise, tile=16, pad=0)
    assert found.most > 1
    assert found.share > 0.01


def test_the_lines_name_weights_photo_and_change(network, noise, monkeypatch, capsys):
    monkeypatch.setattr(overlap, "load_student", lambda _: network)
    monkeypatch.setattr(overlap, "read_rgb", lambda _: noise)
    monkeypatch.setattr(sys, "argv", ["overlap.py", "a.png"])
    overlap.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[:2] for line in lines] == [[name, " a.png"] for name in overlap.PURPOSES]
    reach = network.rdan.reach
    assert all(f"{overlap.PAD} of {reach} px: no pixel changes, by up to 0 of 255" in line for line in lines)
