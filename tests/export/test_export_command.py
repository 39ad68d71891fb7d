import sys

import onnxruntime
import pytest
from graphs import onnx_graphs, student
from typer.testing import CliRunner

from mrda.cli import app
from mrda.networks import MLN, save_network


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "student.safetensors"
    save_network(student(), path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.slow
def test_it_writes_two_graphs_and_says_the_error(tmp_path, weights):
    out = tmp_path / "new" / "folder"
    result = run("-w", weights, "-o", out)
    assert result.exit_code == 0, result.stderr
    files, _, error = result.stdout.partition(": x4, SR differs from PyTorch's by at most ")
    assert files == f"{out / 'den.onnx'} and {out / 'rdan.onnx'}"
    assert 0 < float(error.split()[0]) < 1e-5
    assert sorted(path.name for path in out.iterdir()) == ["den.onnx", "rdan.onnx"]
    onnx_graphs(out)
    result = run("-w", weights, "-o", out)
    assert result.exit_code == 2
    assert "exist already: give --overwrite to replace them" in result.stderr
    assert run("-w", weights, "-o", out, "--overwrite").exit_code == 0


@pytest.mark.slow
def test_torch_export(tmp_path, weights):
    result = run("-w", weights, "-o", tmp_path / "out", "--format", "torch-export")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["den.pt2", "rdan.pt2"]


@pytest.mark.slow
def test_a_fixed_size_in_half_precision_with_the_den_in_two_graphs(tmp_path, weights):
    result = run("-w", weights, "-o", tmp_path / "out", "--size", "20x24", "--dtype", "fp16", "--split-den")
    assert result.exit_code == 0, result.stderr
    names = ["features.onnx", "head.onnx", "rdan.onnx"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    features, head, rdan = (str(tmp_path / "out" / name) for name in names)
    assert result.stdout.startswith(f"{features}, {head} and {rdan}: x4, SR differs from PyTorch's by at most ")
    session = onnxruntime.InferenceSession(rdan)
    assert session.get_inputs()[0].shape == [1, 3, 20, 24]


def refused(result, *words):
    assert result.exit_code == 2
    assert result.stderr.startswith("mrda: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_refusals(tmp_path, weights, monkeypatch):
    out = tmp_path / "out"
    save_network(MLN(scale=2, num_feat=2), tmp_path / "mln.safetensors")
    refused(run("-w", tmp_path / "mln.safetensors", "-o", out), "MLN", "needs an MRDAStudent")
    refused(run("-w", tmp_path / "none.safetensors", "-o", out), "none.safetensors")
    refused(run("-w", weights, "-o", weights / "out"), f"{weights / 'out'} can't be written to")
    for size in ("192", "192x", "-1x5", "1.5x2", "320 x 180"):
        words = f"--size is {size}, but must be HEIGHTxWIDTH in pixels, such as 192x256"
        refused(run("-w", weights, "-o", out, "--size", size), words)
    for size in ("0x5", "5000x5000"):
        refused(run("-w", weights, "-o", out, "--size", size), f"--size is {size}, but must have 1 to 4,194,304 pixels")
    refused(run("-w", weights, "-o", out, "--format", "torch-export", "--dtype", "fp16"), "is for --format onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused(run("-w", weights, "-o", out), "pip install './mrda[export]'")
    assert not out.exists()
