"""The stub of the extension, beside the functions that are built into it."""

import inspect
import re

import pytest
from stubs import CLASSES, STUBS


def is_cuda(name):
    return "cuda" in name


def parameters(function):
    """Names of parameters, by the line that pybind11 writes."""
    given = re.match(r"\w+\((.*)\) -> ", function.__doc__)[1]
    return re.findall(r"(?:^|, )(\w+(?=: )|\*(?=, ))", given)


def functions(module):
    return {name: parameters(value) for name, value in vars(module).items() if inspect.isbuiltin(value)}


@pytest.mark.parametrize("name", ["_C", "_emulation"])
def test_every_function_has_a_stub_with_its_parameters(name):
    module = pytest.importorskip(f"mrda_kernels.{name}", reason=f"mrda_kernels.{name} is not built here")
    found = functions(module)
    if name == "_emulation":  # which has the functions for GPUs, and its own for tests
        found = {name: each for name, each in found.items() if is_cuda(name)}
        expected = {name: each for name, each in STUBS.items() if is_cuda(name) and name != "cuda_versions"}
    else:
        cuda = hasattr(module, "cuda_architectures")
        expected = {name: each for name, each in STUBS.items() if cuda or not is_cuda(name)}
        assert {"RdaConvParams": {"__init__": parameters(module.RdaConvParams.__init__)}} == CLASSES
    assert found == expected
    assert len(found) > 8
