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
        assert re.search(r"runs on the CPU|runs on GPUs|does not run here: .*\w", line)
    assert f"on GPUs: {', '.join(dispatch.ORDER['cuda'])}" in text
    if cpu.why_not("cpu") is None:
        from mrda_kernels import _C

        assert _C.cpu_instruction_set() in text


def test_says_what_the_environment_variable_does(monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "reference")
    text = report()
    assert "MRDA_KERNELS_BACKEND=reference is set" in text
    assert "on the CPU runs on reference" in text
    assert "the first of these" not in text
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "on the CPU fails: " in report()
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "cpuu")
    assert "MRDA_KERNELS_BACKEND is 'cpuu', but must be one of" in report()
    assert "calls that name no backend fail" in report()
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "")
    assert "the first of these" in report()


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
