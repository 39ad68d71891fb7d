"""Builds the extension mrda_kernels._C with ninja: plain C++ and pybind11, no torch.

Without a C++ compiler the package installs all the same, with the reference backend alone.
CXX names the compiler; MRDA_KERNELS_NATIVE=0 leaves the extension out, =1 makes a missing compiler an error.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
KERNELS = ["csrc/cpu/forward.cpp", "csrc/cpu/backward.cpp"]  # once per instruction set
COMMON = ["csrc/cpu/launch.cpp", "csrc/bindings.cpp"]


def instruction_sets(compiler: list[str]) -> dict[str, list[str]]:
    """Name -> compiler flags. The kernels choose among them at run time, so the binary runs on any machine."""
    sets: dict[str, list[str]] = {"baseline": []}
    if platform.machine().lower() in {"x86_64", "amd64"}:
        for name, flag in (("x86_64_v3", "-march=x86-64-v3"), ("x86_64_v4", "-march=x86-64-v4")):
            probe = [*compiler, flag, "-fsyntax-only", "-x", "c++", os.devnull]  # older compilers know neither
            if subprocess.run(probe, capture_output=True).returncode == 0:
                sets[name] = [flag]
    return sets


def find_compiler() -> list[str] | None:
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if shutil.which(command[0]):
            return command
    return None


def escape(path: str | Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def write_ninja(build_dir: Path, output: Path, compiler: list[str]) -> None:
    import pybind11

    includes = [sysconfig.get_path("include"), pybind11.get_include()]
    sets = instruction_sets(compiler)
    flags = [*FLAGS, *(f"-DMRDA_HAS_{name}" for name in sets), *(f"-isystem{path}" for path in includes)]
    flags += shlex.split(os.environ.get("CXXFLAGS", ""))
    link = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    link += shlex.split(os.environ.get("LDFLAGS", ""))
    lines = [
        f"cxx = {shlex.join(compiler)}",
        f"flags = {shlex.join(flags)}",
        "rule compile",
        "  command = $cxx -MMD -MF $out.d $flags $extra -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = $cxx {shlex.join(link)} $in -o $out",
    ]
    objects = []
    for isa, extra in sets.items():
        for source in KERNELS:
            obj = f"{isa}/{Path(source).stem}.o"
            objects.append(obj)
            extra_flags = shlex.join([*extra, f"-DMRDA_ISA={isa}"])
            lines += [f"build {obj}: compile {escape(ROOT.resolve() / source)}", f"  extra = {extra_flags}"]
    for source in COMMON:
        objects.append(f"{Path(source).stem}.o")
        lines.append(f"build {objects[-1]}: compile {escape(ROOT.resolve() / source)}")
    lines.append(f"build {escape(output.resolve())}: link {' '.join(objects)}")
    build_dir.mkdir(parents=True, exist_ok=True)
    (build_dir / "build.ninja").write_text("\n".join(lines) + "\n")


class NinjaBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import ninja

        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        build_dir = Path(self.build_temp)
        write_ninja(build_dir, output, COMPILER or [])
        result = subprocess.run([Path(ninja.BIN_DIR) / "ninja", "-C", build_dir])
        if result.returncode:
            raise SystemExit(
                "mrda-kernels: the C++ extension does not compile (the compiler's message is above); "
                "MRDA_KERNELS_NATIVE=0 installs the package without it."
            )


REQUEST = os.environ.get("MRDA_KERNELS_NATIVE", "")
COMPILER = None if REQUEST == "0" else find_compiler()
if COMPILER is None and REQUEST == "1":
    raise SystemExit("mrda-kernels: MRDA_KERNELS_NATIVE=1, but there is no C++ compiler; install g++ or clang++.")
if COMPILER is None and REQUEST != "0":
    print(
        "WARNING: mrda-kernels: no C++ compiler (g++ or clang++) found; only the slow reference backend is installed.",
        file=sys.stderr,
    )

setup(
    ext_modules=[Extension("mrda_kernels._C", [*KERNELS, *COMMON])] if COMPILER else [],
    cmdclass={"build_ext": NinjaBuild},
)
