"""Fixtures of the benchmarks' tests."""

import pytest
import torch
from synthetic import record


@pytest.fixture
def eager_peers(monkeypatch):
    """The compiled peers run op by op: compiling them takes seconds each."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.fixture
def records():
    kept = {"saved_bytes": 3 * 2**20}
    return [
        record("released", 40.0, saved_bytes=7 * 2**20),
        record("released_compiled", 9.0),
        record("shift_add_compiled", 20.0),
        record("mrda_kernels", 4.0, **kept),
        record("copy", 2.0),
        record("released", 60.0, layout="nhwc", saved_bytes=7 * 2**20),
        record("released_compiled", 30.0, layout="nhwc"),
        record("shift_add_compiled", 6.0, layout="nhwc"),
        record("mrda_kernels", 5.0, layout="nhwc", **kept),
        record("copy", 2.5, layout="nhwc"),
    ]
