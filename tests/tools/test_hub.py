"""The tree of kernels for Hugging Face's builder: its files, and its Python part in a namespace of its own."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import gpu_model
from tools.hub import __main__ as hub

sys.path.append(str(Path(__file__).parents[1] / "kernels"))
from stubs import STUBS

setup = gpu_model.setup()

KEYS = {
    "general": {"name", "version", "backends"},
    "torch": {"src", "minver"},
    "cpu": {"backend", "depends", "src"},
    "cuda": {"backend", "depends", "src", "cuda-capabilities"},
}
OPS = """
import torch
ops = torch.ops.{namespace}
def add_op_namespace_prefix(name):
    return "{namespace}::" + name
"""
USE = """
import importlib, sys, warnings, torch, mrda_kernels
warnings.simplefilter("ignore")
torch.manual_seed(0)
x, w, m = torch.rand(2, 4, 6, 5), torch.rand(2, 4, 3, 3), torch.rand(1, 4, 1, 1)
c = torch.rand(4, 4, 3, 3)
expected = mrda_kernels.rda_conv2d(x, w, m, backend="reference")
for name in ("kernel_1", "kernel_2"):
    kernel = importlib.import_module(name)
    leaf = x.clone().requires_grad_()
    result = kernel.rda_conv2d(leaf, w, m)
    result.sum().backward()
    assert torch.equal(result, expected) and leaf.grad is not None
    assert importlib.import_module(name + ".backends.cpu").why_not("cpu").startswith("the compiled extension")
    assert torch.equal(getattr(torch.ops, name + "_unique").rda_conv2d(x, w, m, None, 0.1, None, None), expected)
    half = kernel.rda_conv3x3(x, w, m, None, c)
    assert torch.equal(half, mrda_kernels.rda_conv3x3(x, w, m, None, c, backend="reference"))
print(len([name for name in sys.modules if name.startswith("kernel_1.")]) > 10)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("hub") / "kernels"
    hub.generate(out)
    return out


def sections(tree):
    return tomllib.loads((tree / "build.toml").read_text())


def test_the_configuration_has_the_builders_keys(tree):
    found = sections(tree)
    assert set(found) == {"general", "torch", "kernel"}
    for name in ("general", "torch"):
        assert set(found[name]) == KEYS[name]
    assert (tree / "torch-ext" / found["general"]["name"] / "__init__.py").exists()
    for kernel in found["kernel"].values():
        assert set(kernel) <= KEYS[kernel["backend"]]
    assert {kernel["backend"] for kernel in found["kernel"].values()} == set(found["general"]["backends"])


def test_every_source_is_listed_and_there(tree):
    found = sections(tree)
    listed = [path for part in (found["torch"], *found["kernel"].values()) for path in part["src"]]
    assert not [path for path in listed if not (tree / path).is_file()]
    for kernel in found["kernel"].values():
        assert len(set(kernel["src"])) == len(kernel["src"])
    there = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.suffix in {".h", ".cuh", ".cu"}}
    assert there <= set(listed)


def test_every_source_for_a_cpu_is_compiled():
    assert {path.stem for path in (hub.ROOT / "csrc" / "cpu").glob("*.cpp")} == {*hub.CPU, *hub.COMMON}


def test_every_include_is_there(tree):
    for path in tree.rglob("*"):
        if path.suffix in {".h", ".cuh", ".cu", ".cpp"}:
            names = re.findall(r'^#include "(.+)"', path.read_text(), flags=re.MULTILINE)
            missing = [name for name in names if not (path.parent / name).exists()]
            assert missing in ([], ["registration.h"]), path  # which the builder writes


def test_the_binding_has_every_function_of_the_extension(tree):
    binding = (tree / "torch-ext" / "torch_binding.cpp").read_text()
    package = tree / "torch-ext" / "mrda_kernels" / "backends"
    used = set()
    for name in ("cpu", "cuda"):
        used |= set(re.findall(r"(?:_C|self\._native)\.(\w+)", (package / f"{name}.py").read_text()))
    assert len(used) > 15
    defined = set(re.findall(r'"(\w+)\(', binding))
    assert used - {"RdaConvParams"} == used & defined


def test_the_operators_have_the_parameters_of_the_extensions_functions(tree):
    binding = (tree / "torch-ext" / "torch_binding.cpp").read_text()
    schemas = ["".join(re.findall(r'"(.*?)"', words)) for words in re.findall(r'ops\.def\(((?:\s*".*?")+)', binding)]
    assert len(schemas) > 15
    for schema in schemas:
        name, parameters = re.fullmatch(r"(\w+)\((.*)\) -> .*", schema).groups()
        found = [words.split()[-1] for words in parameters.split(", ") if words]
        if found[:2] == ["p", "slopes"]:
            found[:2] = ["params"]
        if name != "cuda_architectures":  # an attribute of the extension
            assert found == STUBS[name], name


def test_the_gpus_and_the_sources_are_those_of_the_projects_own_build(tree):
    found = sections(tree)["kernel"]
    assert [capability.replace(".", "") for capability in found["gpu"]["cuda-capabilities"]] == setup.ALL_GPUS
    architectures = " ".join(f"sm_{gpu}" for gpu in setup.ALL_GPUS)
    assert f'return "{architectures}";' in (tree / "torch-ext" / "torch_binding.cpp").read_text()
    for path in setup.KERNELS:
        for isa in ("baseline", "x86_64_v3", "x86_64_v4"):
            assert f"cpu/{isa}/{Path(path).name}" in found["cpu_for_cpu"]["src"]
    assert set(setup.CUDA) <= set(found["gpu"]["src"])


def test_all_imports_are_relative(tree):
    for path in (tree / "torch-ext").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                assert module.split(".")[0] in {"torch", "triton", *sys.stdlib_module_names}, path


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import numpy", "imports numpy"),
        ("import mrda_kernels.call", "imports mrda_kernels.call"),
        ("torch.library.define(f'mrda_kernels::{name}', '')", "names the package's namespace"),
        ("getattr(torch.ops, 'x').mrda_kernels.rda_conv2d", "uses the namespace mrda_kernels"),
    ],
)
def test_code_that_would_meet_another_version_is_refused(code, words):
    with pytest.raises(ValueError, match=rf"other\.py, line 1: .*{words}"):
        hub.relative(code, Path("other.py"))


def test_two_versions_compute_beside_the_package(tree, tmp_path):
    for name in ("kernel_1", "kernel_2"):
        shutil.copytree(tree / "torch-ext" / "mrda_kernels", tmp_path / name)
        (tmp_path / name / "_ops.py").write_text(OPS.format(namespace=f"{name}_unique"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"


def test_another_folder_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(SystemExit, match="photos exists and is no tree of kernels; name another folder with --out"):
        hub.generate(tmp_path / "photos")
