"""python -m mrda_kernels.info"""

import re
import subprocess
import sys

import torch

import mrda_kernels
from mrda_kernels import dispatch
from mrda_kernels.backends import cpu
from mrda_kernels.info import report


def test_names_versions_and_every_backend():
    text = report()
    assert mrda_kernels.__version__ in text
    assert torch.__version__ in text
    for name in dispatch.BACKENDS:
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert re.search(r"serves the CPU|serves GPUs|off: .*\w", line)
    assert "on GPUs: cuda, triton, reference" in text
    if cpu.why_not("cpu") is None:
        from mrda_kernels import _C

        assert _C.cpu_instruction_set() in text


def test_says_why_a_backend_is_off(monkeypatch):
    monkeypatch.setattr(cpu, "_C", None)
    monkeypatch.setattr(cpu, "_missing", "it was left out", raising=False)
    (line,) = [line for line in report().splitlines() if line.split()[:1] == ["cpu"]]
    assert "it was left out" in line
    assert "C++17 compiler" in line


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mrda_kernels.info"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == f"mrda-kernels {mrda_kernels.__version__}"
    assert done.stderr == ""
