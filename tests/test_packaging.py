"""The distributions: what they carry, what building them needs, and that they import on their own."""

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from mrda_kernels import __version__

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


@pytest.fixture(scope="module")
def mrda_wheel(checkout, tmp_path_factory):
    return build(checkout / "mrda", tmp_path_factory.mktemp("mrda"), "wheel")[0]


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


def needed(requirements: list[str]) -> set[str]:
    """The distributions that requirements bring along, themselves among them."""
    found: set[str] = set()
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found.add(name)
        for text in distribution(name).requires or []:
            todo += [(Requirement(text), wanted) for wanted in ("", *requirement.extras)]
    return found


def environment(folder: Path, wheels: list[Path]) -> Path:
    """Python of a new environment that holds the wheels, and links to what they require here, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    own = set()
    requirements = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        own.add(canonicalize_name(wheel.name.split("-")[0]))
        requirements += [text for text in metadata_of(wheel).get_all("Requires-Dist") if "extra ==" not in text]
    for name in needed([text for text in requirements if canonicalize_name(Requirement(text).name) not in own]):
        for top in {file.parts[0] for file in distribution(name).files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(distribution(name).locate_file(top)).absolute())
    return folder / "bin" / "python"


def metadata_of(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(archive.read(name))


def run_installed(python: Path, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run an environment's Python beside nothing of this checkout."""
    kept = {k: v for k, v in os.environ.items() if k not in {"MRDA_KERNELS_BACKEND", "PYTHONPATH"}}
    done = subprocess.run([python, *arguments], env=kept, cwd=python.parent, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


USE_IT = """
import torch, mrda_kernels
from mrda_kernels import dispatch, rda_conv2d
x = torch.ones(1, 2, 4, 4, requires_grad=True)
rda_conv2d(x, torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 1, 1)).sum().backward()
print(mrda_kernels.__file__)
print(dispatch.select(None, "cpu").__name__, float(x.grad[0, 0, 1, 1]))
import importlib.metadata
print(*sorted(found.name for found in importlib.metadata.distributions()))
"""


def test_the_sdist_carries_all_sources_of_the_kernels(unpacked_sdist):
    expected = {p.relative_to(ROOT) for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}}
    assert expected
    assert {p.relative_to(unpacked_sdist) for p in (unpacked_sdist / "csrc").rglob("*") if p.is_file()} == expected


def test_the_wheel_carries_the_extension_and_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(is_extension(name) for name in names) == 1
    assert "mrda_kernels/py.typed" in names
    assert all(name.startswith(("mrda_kernels/", "mrda_kernels-")) for name in names)


def test_the_wheel_of_mrda_is_whole_with_the_licences(mrda_wheel):
    names = set(zipfile.ZipFile(mrda_wheel).namelist())
    assert mrda_wheel.name.endswith("-py3-none-any.whl")
    carried = {".py", ".yaml", ".json", ".safetensors", ".typed"}
    there = {path for path in (ROOT / "mrda").rglob("*") if path.suffix in carried and "build" not in path.parts}
    assert {path.relative_to(ROOT).as_posix() for path in there} <= names
    licences = {name.partition(".dist-info/licenses/")[2] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "weights_data/LICENSE"}
    said = tomllib.loads((ROOT / "mrda" / "pyproject.toml").read_text())["project"]["license"]
    assert metadata_of(mrda_wheel)["License-Expression"] == said
    assert (ROOT / "mrda" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_two_distributions_have_one_version(mrda_wheel):
    metadata = metadata_of(mrda_wheel)
    assert metadata["Version"] == __version__
    assert f"mrda-kernels=={__version__}" in metadata.get_all("Requires-Dist")


def test_the_wheel_needs_torch_alone(wheel):
    metadata = metadata_of(wheel)
    assert [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text] == ["torch>=2.11"]
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_operator_works_in_an_environment_of_torch_alone(wheel, tmp_path):
    done = run_installed(environment(tmp_path, [wheel]), "-W", "ignore", "-c", USE_IT)
    where, what, installed = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    # 9 outputs see the pixel, each through a weight of 1 and a mask of 1/2; and the pixel itself
    assert what == "mrda_kernels.backends.cpu 5.5"
    assert {canonicalize_name(name) for name in installed.split()} == {"mrda-kernels"} | needed(["torch"])


def test_photos_are_upscaled_and_training_says_its_extra_without_extras(wheel, mrda_wheel, tmp_path):
    python = environment(tmp_path / "environment", [wheel, mrda_wheel])
    Image.new("RGB", (16, 12), "red").save(tmp_path / "photo.png")
    done = run_installed(python, "-m", "mrda", "upscale", tmp_path / "photo.png", "-o", tmp_path / "out")
    assert done.stdout.startswith("1 of 1 photos upscaled")
    assert Image.open(tmp_path / "out" / "photo_x4.png").size == (64, 48)
    done = run_installed(python, "-m", "mrda", "train", "--config", "demo", code=2)
    assert done.stderr == "mrda: training needs accelerate: pip install './mrda[train]'\n"


def test_without_a_compiler_one_line_warns_and_the_reference_serves(pure_wheel, tmp_path):
    made, said = pure_wheel
    assert made.name.endswith("-py3-none-any.whl")
    assert not any(is_extension(name) for name in zipfile.ZipFile(made).namelist())
    (line,) = {line for line in said.splitlines() if WARNING in line}
    assert line == (
        "WARNING: mrda-kernels: CXX is '/nowhere/compiler', and there is no /nowhere/compiler; "
        "only the slow reference backend is installed."
    )
    where, what, _ = run_installed(environment(tmp_path, [made]), "-W", "ignore", "-c", USE_IT).stdout.splitlines()
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
