import pytest
import torch

from benchmarks.engines import ENGINES, PACKAGES, Engine
from benchmarks.model import random_network


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_computes_the_network(name):
    for package in ("onnx", "onnxscript", "onnxruntime", *PACKAGES[name]):
        pytest.importorskip(package)
    network = random_network("cpu", num_feat=8, num_blocks=2, den_width=4)
    engine = Engine(name, network, torch.float32)
    images = torch.rand(2, 1, 3, 7, 9)
    for lr in images:  # two images, so that a graph with the first one's kernels as constants would fail
        torch.testing.assert_close(engine(lr), network(lr), rtol=0, atol=1e-5)


def test_onnx_runtime_says_that_it_has_no_bfloat16():
    pytest.importorskip("onnxruntime")
    with pytest.raises(NotImplementedError, match="no bfloat16 kernels"):
        ENGINES["onnxruntime"]("den.onnx", torch.bfloat16)
