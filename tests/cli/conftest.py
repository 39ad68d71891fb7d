from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.networks import MRDAStudent, save_network

REPOSITORY = Path(__file__).resolve().parents[2]


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
