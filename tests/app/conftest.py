import numpy as np
import pytest
import torch
from PIL import Image

from mrda.inference import Upscaler
from mrda.networks import MRDAStudent


@pytest.fixture
def upscaler():
    torch.manual_seed(0)
    return Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4))


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (36, 48, 3), dtype=np.uint8)


@pytest.fixture
def photo(tmp_path, rgb):
    path = tmp_path / "photo.png"
    Image.fromarray(rgb).save(path)
    return path
