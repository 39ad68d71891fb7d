"""Running commands in tests, and small inputs for them."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mrda.cli import app
from mrda.networks import MRDAStudent, save_network

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*arguments, env=os.environ, **options):
    """The command in a process of its own, as a person would run it."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), env.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "mrda", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**env, "PYTHONPATH": path},
        **{"stdout": subprocess.PIPE, **options},
    )


@contextmanager
def replaced(mapping, content):
    """Another content of a mapping, whose order counts, while the context is open."""
    before = dict(mapping)
    mapping.clear()
    mapping.update(content)
    try:
        yield
    finally:
        mapping.clear()
        mapping.update(before)


def one_sentence(text):
    return text.startswith("mrda: ") and text.count("\n") == 1 and "Traceback" not in text


def refused(result, out, *words):
    assert result.exit_code == 2
    assert one_sentence(result.stderr), result.stderr
    for word in words:
        assert word in result.stderr
    assert not out.exists()


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
