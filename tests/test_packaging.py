"""The distributions: what they carry, what building them needs, and that they import on their own."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (
    "csrc",
    "mrda",
    "mrda_kernels",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
WARNING = "only the slow reference backend"
# what the package depends on besides torch, and what builds it: none of it may be needed by mrda_kernels
HIDDEN = {
    "accelerate",
    "numpy",
    "pydantic",
    "typer",
    "rich",
    "yaml",
    "safetensors",
    "PIL",
    "pybind11",
    "ninja",
}

pytestmark = pytest.mark.slow


def is_extension(name: str) -> bool:
    """Return True if a file of a wheel is the compiled module, not its type stub."""
    return name.startswith("mrda_kernels/_C.") and not name.endswith(".pyi")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The sources without anything built."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    return folder


# torch, and whatever else imports it, cannot be imported while the package is built
WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def build(source: Path, out: Path, kind: str, **environment: str) -> tuple[Path, str]:
    """The distribution that ``python -m build`` makes of a folder, and all that it says meanwhile."""
    site = out / "site"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(WITHOUT_TORCH)
    inherited = {k: v for k, v in os.environ.items() if k not in {"MRDA_KERNELS_NATIVE", "CXX"}}
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source],
        env=inherited | {"PYTHONPATH": str(site)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (made,) = (path for path in out.iterdir() if path.is_file())
    return made, done.stdout


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory):
    return build(checkout, tmp_path_factory.mktemp("sdist"), "sdist", MRDA_KERNELS_NATIVE="0")[0]


@pytest.fixture(scope="module")
def unpacked_sdist(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


@pytest.fixture(scope="module")
def wheel(unpacked_sdist, tmp_path_factory):
    """Built from the sdist, as an installer would."""
    if not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    compiler = {"CXX": os.environ["CXX"]} if os.environ.get("CXX") else {}
    # test_cuda_build.py tests nvcc, which takes as long as all the rest.
    environment = {"MRDA_KERNELS_NATIVE": "1", "MRDA_KERNELS_CUDA": "0", **compiler}
    made, said = build(unpacked_sdist, tmp_path_factory.mktemp("wheel"), "wheel", **environment)
    assert WARNING not in said
    return made


@pytest.fixture(scope="module")
def pure_wheel(unpacked_sdist, tmp_path_factory):
    return build(unpacked_sdist, tmp_path_factory.mktemp("pure"), "wheel", CXX="/nowhere/compiler")


def run_installed(wheel: Path, folder: Path, code: str) -> str:
    """Return what ``code`` prints if only the wheel and torch are there: other packages are hidden."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    setup = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
# an editable installation of this checkout must not help out
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
sys.path[:] = [p for p in sys.path if p and p != {str(ROOT)!r}]
"""
    environment = {k: v for k, v in os.environ.items() if k != "MRDA_KERNELS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", setup + code],
        env=environment | {"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


USE_IT = """
import torch, mrda_kernels
from mrda_kernels import dispatch, rda_conv2d
x = torch.ones(1, 2, 4, 4, requires_grad=True)
rda_conv2d(x, torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 1, 1)).sum().backward()
print(mrda_kernels.__file__)
print(dispatch.select(None, "cpu").__name__, float(x.grad[0, 0, 1, 1]))
"""


def test_the_sdist_carries_all_sources_of_the_kernels(unpacked_sdist):
    expected = {p.relative_to(ROOT) for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}}
    assert expected
    assert {p.relative_to(unpacked_sdist) for p in (unpacked_sdist / "csrc").rglob("*") if p.is_file()} == expected


def test_the_wheel_carries_the_extension_types_and_presets(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(is_extension(name) for name in names) == 1
    assert {"mrda/py.typed", "mrda_kernels/py.typed"} <= set(names)
    presets = {p.relative_to(ROOT).as_posix() for p in (ROOT / "mrda" / "config" / "presets").rglob("*.yaml")}
    assert presets
    assert presets <= set(names)
    assert not any(name.startswith(("tests/", "benchmarks/", "csrc/")) for name in names)


def test_the_wheel_says_which_torch_it_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    assert "torch>=2.11" in metadata.get_all("Requires-Dist")
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_wheel_works_beside_torch_alone(wheel, tmp_path):
    where, what = run_installed(wheel, tmp_path, USE_IT).splitlines()
    assert Path(where).is_relative_to(tmp_path)
    # 9 outputs see the pixel, each through a weight of 1 and a mask of 1/2; and the pixel itself
    assert what == "mrda_kernels.backends.cpu 5.5"


def test_without_a_compiler_one_line_warns_and_the_reference_serves(pure_wheel, tmp_path):
    made, said = pure_wheel
    assert made.name.endswith("-py3-none-any.whl")
    assert not any(is_extension(name) for name in zipfile.ZipFile(made).namelist())
    (line,) = {line for line in said.splitlines() if WARNING in line}
    assert line == (
        "WARNING: mrda-kernels: CXX is '/nowhere/compiler', and there is no /nowhere/compiler; "
        "only the slow reference backend is installed."
    )
    where, what = run_installed(made, tmp_path, USE_IT).splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert what == "mrda_kernels.backends.reference 5.5"


def test_the_extension_can_be_left_out_without_a_warning(unpacked_sdist, tmp_path):
    made, said = build(unpacked_sdist, tmp_path / "out", "wheel", MRDA_KERNELS_NATIVE="0")
    assert made.name.endswith("-py3-none-any.whl")
    assert WARNING not in said


def test_a_missing_compiler_is_an_error_where_the_extension_is_asked_for(checkout):
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=checkout,
        env=os.environ | {"MRDA_KERNELS_NATIVE": "1", "CXX": "/nowhere/compiler"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "mrda-kernels: MRDA_KERNELS_NATIVE=1, but CXX is '/nowhere/compiler', and there is no /nowhere/compiler; "
        "install g++ or clang++."
    )
