"""What all tests share: the same examples on every run, a failure that can be repeated, and the GPU if there is one."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("ci")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # has to be there before triton is imported
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms want on a GPU


@pytest.fixture(autouse=True)
def float32_upscalers(monkeypatch):
    """Upscalers compute in float32 where a test does not say otherwise, whatever is fastest on the machine."""
    monkeypatch.setattr("mrda.upscale.upscaler._best_dtype", lambda device: torch.float32)


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` where there is none."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU, and torch finds none here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
