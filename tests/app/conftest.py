import socket

import numpy as np
import pytest
import torch
from at_strength import at_strength
from commands import photo  # noqa: F401 (fixture)

from mrda.app.probe import BlurProbe
from mrda.networks import MRDAStudent
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.upscaler import Upscaler


@pytest.fixture
def upscaler():
    torch.manual_seed(0)
    return Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4))


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (36, 48, 3), dtype=np.uint8)


@pytest.fixture
def probe():
    """Estimates 1 px for an IDR of zeros, and something else for others."""
    return BlurProbe(torch.zeros(16, dtype=torch.float64), torch.ones(16, dtype=torch.float64), (0.0, 2.0), 0.1)


@pytest.fixture
def address(upscaler, probe, tmp_path, monkeypatch):
    """Address of a page that serves photos of up to 4,000 pixels."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install './mrda[app]'")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    (tmp_path / "gradio").mkdir()
    monkeypatch.setattr("mrda.app.work.make_probe", lambda network: probe)
    from mrda.app.page import build_page, launch
    from mrda.app.work import AUTO_TITLE, Weights

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    other = Upscaler(MRDAStudent(scale=3, num_feat=8, num_blocks=1, den_width=4))
    choices = {"tiny": Weights(upscaler, "nothing"), "other": Weights(other, "nothing else")}
    choices["paired"] = Weights(upscaler, None, 0.0, at_strength)
    choices[AUTO_TITLE] = Weights(AutoUpscaler(device="cpu"), None)
    page = build_page(choices, max_pixels=4000)
    yield launch(page, host="127.0.0.1", port=port, max_pixels=4000)
    page.close(verbose=False)
