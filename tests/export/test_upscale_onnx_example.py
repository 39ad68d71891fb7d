import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from graphs import exactly, student
from PIL import Image

from mrda.export import export_student

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "upscale_onnx.py"


@pytest.mark.slow
def test_the_example_upscales_in_tiles_without_torch(tmp_path, monkeypatch):
    network = student(scale=2)
    export_student(network, tmp_path)
    levels = np.random.default_rng(0).integers(0, 256, (270, 24, 3), dtype=np.uint8)  # two tiles
    levels[:128] //= 4  # of different degradations, by themselves
    Image.fromarray(levels).save(tmp_path / "photo.png")
    for package in ("mrda", "mrda_kernels", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(
        sys, "argv", [str(EXAMPLE), str(tmp_path), str(tmp_path / "photo.png"), str(tmp_path / "x2.png")]
    )
    runpy.run_path(str(EXAMPLE))
    monkeypatch.undo()
    lr = (levels / np.float32(255)).transpose(2, 0, 1)[None]
    expected, budget = exactly(network, lr)
    exact = expected[0].clip(0, 1).transpose(1, 2, 0) * 255
    upscaled = np.asarray(Image.open(tmp_path / "x2.png"))
    assert upscaled.shape == (540, 48, 3)
    assert abs(upscaled - exact).max() <= 0.5 + 255 * budget
