# SPDX-License-Identifier: Apache-2.0
"""Builds the extension mrda_kernels._C with ninja: plain C++ and CUDA, bound by pybind11; no torch.

Without a C++ compiler the package installs all the same, with the reference backend alone; without nvcc, without the
CUDA kernels. torch's own builder refuses CUDA beside a CPU-only torch; this one never asks torch.

Environment variables:

CXX, CXXFLAGS, LDFLAGS    as usual
MRDA_KERNELS_NATIVE       0: no extension; 1: a missing C++ compiler is an error
MRDA_KERNELS_CUDA         0: no CUDA kernels; 1: a missing nvcc is an error
MRDA_KERNELS_CUDA_ARCHS   GPUs to build for, as compute capabilities: "80,90", or "all"; by default the GPU in this
                          machine, else 90. The newest one's PTX is built in too, for GPUs to come.
MRDA_KERNELS_EMULATION    1: also mrda_kernels._emulation, the CUDA kernels on the CPU, for this project's tests
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
KERNELS = ["csrc/cpu/forward.cpp", "csrc/cpu/backward.cpp"]  # once per instruction set
COMMON = ["csrc/cpu/launch.cpp", "csrc/bindings.cpp"]
CUDA = ["csrc/cuda/forward.cu", "csrc/cuda/backward.cu"]
EMULATION = [f"csrc/emulation/{name}.cpp" for name in ("emulation", "faulty", "bindings")] + CUDA
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-forward-unknown-to-host-compiler"]
ALL_GPUS = ["80", "86", "89", "90", "100"]
DEFAULT_GPU = "90"


def fail(message: str) -> SystemExit:
    return SystemExit(f"mrda-kernels: {message}")


# ---- compilers -----------------------------------------------------------------------------------------------------


def find_compiler() -> list[str] | None:
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if shutil.which(command[0]):
            return command
    return None


def instruction_sets(compiler: list[str]) -> dict[str, list[str]]:
    """Name -> compiler flags. The kernels choose among them at run time, so the binary runs on any machine."""
    sets: dict[str, list[str]] = {"baseline": []}
    if platform.machine().lower() in {"x86_64", "amd64"}:
        for name, flag in (("x86_64_v3", "-march=x86-64-v3"), ("x86_64_v4", "-march=x86-64-v4")):
            probe = [*compiler, flag, "-fsyntax-only", "-x", "c++", os.devnull]  # older compilers know neither
            if subprocess.run(probe, capture_output=True).returncode == 0:
                sets[name] = [flag]
    return sets


def find_nvcc() -> str | None:
    """From CUDA_HOME, the PATH, or the wheel nvidia-cuda-nvcc (which pip sees under --no-build-isolation only)."""
    places = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for place in places:
        if found := shutil.which("nvcc", path=str(place)):
            return found
    if found := shutil.which("nvcc"):
        return found
    spec = importlib.util.find_spec("nvidia")
    wheels = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    return next((str(path) for folder in wheels for path in sorted(folder.glob("*/bin/nvcc"))), None)


def known_gpus(nvcc: str) -> list[str]:
    """Those that the kernels can be built for: asynchronous copies came with sm_80."""
    try:
        listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise fail(f"{nvcc} --list-gpu-code fails ({said}); mend it, or set MRDA_KERNELS_CUDA=0.") from error
    return sorted((gpu for gpu in re.findall(r"^sm_(\d+)$", listed, flags=re.MULTILINE) if int(gpu) >= 80), key=int)


def gpus_here() -> list[str]:
    """Compute capabilities of this machine's GPUs, without torch."""
    try:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(set(re.findall(r"^\s*(\d+\.\d)\s*$", listed, flags=re.MULTILINE)))


def choose_gpus(request: str, here: list[str], known: list[str]) -> list[str]:
    """Choose the GPUs to build for: those requested, otherwise those here, otherwise the default.

    They are limited to what nvcc knows.
    """
    request = request.strip()
    if request == "all":
        return [gpu for gpu in ALL_GPUS if gpu in known]
    if request:
        wanted = [part.replace(".", "") for part in re.split(r"[\s,;]+", request)]
        if unknown := [gpu for gpu in wanted if gpu not in known]:
            raise fail(
                f"MRDA_KERNELS_CUDA_ARCHS is {request!r}, but this nvcc does not know {', '.join(unknown)}; "
                f"it must be 'all' or some of {', '.join(known)}."
            )
        return sorted(set(wanted), key=int)
    chosen = set()
    for capability in here:
        # a GPU that this nvcc does not know is served by the PTX for an older one
        older = [gpu for gpu in known if int(gpu) <= int(capability.replace(".", ""))]
        chosen |= set(older[-1:])
    return sorted(chosen, key=int) or [DEFAULT_GPU]


# ---- what to build -------------------------------------------------------------------------------------------------


@dataclass
class Build:
    """A ninja file in the making."""

    compiler: list[str]
    nvcc: str | None = None
    gpus: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)

    def rules(self, flags: list[str]) -> None:
        import pybind11

        includes = [sysconfig.get_path("include"), pybind11.get_include()]
        flags = [*FLAGS, *flags, *(f"-isystem{path}" for path in includes)]
        flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        self.lines += [
            f"cxx = {command(self.compiler)}",
            f"flags = {command(flags)}",
            "rule compile",
            "  command = $cxx -MMD -MF $out.d $flags $extra -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
        ]
        link = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
        linker = [*self.compiler, *link]
        if self.nvcc is not None:
            # nvcc links too: it knows where its static runtime is
            launchers = {"ccache", "sccache", "distcc", "env"}
            host = next(part for part in self.compiler if Path(part).name not in launchers and "=" not in part)
            cuda = [self.nvcc, "-ccbin", host, *CUDA_FLAGS]
            generate = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in self.gpus]
            generate.append(f"-gencode=arch=compute_{self.gpus[-1]},code=compute_{self.gpus[-1]}")
            self.lines += [
                "rule compile_cuda",
                f"  command = {command([*cuda, *generate])} -MMD -MF $out.d -c $in -o $out",
                "  depfile = $out.d",
                "  deps = gcc",
            ]
            linker = [*cuda, "-shared", "-cudart=static"]
        linker += shlex.split(os.environ.get("LDFLAGS", ""))
        self.lines += ["rule link", f"  command = {command(linker)} $in -o $out"]

    def compile(self, source: str, folder: str = ".", extra: list[str] | None = None, rule: str = "compile") -> None:
        name = f"{folder}/{Path(source).stem}.o" if folder != "." else f"{Path(source).stem}.o"
        self.objects.append(name)
        self.lines += [f"build {name}: {rule} {escape(ROOT / source)}", f"  extra = {command(extra or [])}"]

    def write(self, folder: Path, output: Path) -> None:
        self.lines.append(f"build {escape(output.resolve())}: link {' '.join(self.objects)}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text("\n".join(self.lines) + "\n")


def command(words: list[str]) -> str:
    """For a shell, in a ninja file."""
    return shlex.join(words).replace("$", "$$")


def escape(path: str | Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def extension_build(compiler: list[str], nvcc: str | None, gpus: list[str]) -> Build:
    build = Build(compiler, nvcc, gpus)
    sets = instruction_sets(compiler)
    flags = [f"-DMRDA_HAS_{name}" for name in sets]
    if nvcc is not None:
        names = " ".join([*(f"sm_{gpu}" for gpu in gpus), f"compute_{gpus[-1]}"])
        flags.append(f'-DMRDA_HAS_CUDA="{names}"')
    build.rules(flags)
    for isa, extra in sets.items():
        for source in KERNELS:
            build.compile(source, isa, [*extra, f"-DMRDA_ISA={isa}"])
    for source in COMMON:
        build.compile(source)
    for source in CUDA if nvcc is not None else []:
        build.compile(source, "cuda", rule="compile_cuda")
    return build


def emulation_build(compiler: list[str]) -> Build:
    """The same .cu sources, by the C++ compiler: csrc/emulation has stand-ins for CUDA's headers."""
    build = Build(compiler)
    # setjmp is used to switch stacks, which the fortified longjmp takes for a mistake
    build.rules([f"-I{ROOT / 'csrc/emulation'}", "-DMRDA_ISA=emulated", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"])
    for source in EMULATION:
        build.compile(source, extra=["-x", "c++"] if source.endswith(".cu") else [])
    return build


def run_ninja(build: Build, folder: Path, output: Path) -> None:
    import ninja

    output.parent.mkdir(parents=True, exist_ok=True)
    build.write(folder, output)
    if subprocess.run([Path(ninja.BIN_DIR) / "ninja", "-C", folder]).returncode:
        cure = "MRDA_KERNELS_NATIVE=0 installs the package without it"
        if build.nvcc is not None:
            cure += ", and MRDA_KERNELS_CUDA=0 with the CPU's kernels only"
        raise fail(f"the extension does not compile (the command and the compiler's message are above); {cure}.")


class NinjaBuild(build_ext):
    compiler_command: list[str]
    nvcc: str | None
    gpus: list[str]

    def build_extension(self, ext: Extension) -> None:
        if ext.name.endswith("_emulation"):
            build = emulation_build(self.compiler_command)
        else:
            build = extension_build(self.compiler_command, self.nvcc, self.gpus)
        run_ninja(build, Path(self.build_temp) / ext.name, Path(self.get_ext_fullpath(ext.name)))


def switch(name: str) -> str:
    """An environment variable that is 0, 1 or not set."""
    value = os.environ.get(name, "")
    if value not in {"", "0", "1"}:
        raise fail(f"{name} is {value!r}, but must be 0, 1 or not set.")
    return value


def main() -> None:
    native, cuda = switch("MRDA_KERNELS_NATIVE"), switch("MRDA_KERNELS_CUDA")
    compiler = None if native == "0" else find_compiler()
    if compiler is None and native == "1":
        raise fail("MRDA_KERNELS_NATIVE=1, but there is no C++ compiler; install g++ or clang++.")
    if compiler is None and native != "0":
        print(
            "WARNING: mrda-kernels: no C++ compiler (g++ or clang++) found; "
            "only the slow reference backend is installed.",
            file=sys.stderr,
        )
    nvcc = None if compiler is None or cuda == "0" else find_nvcc()
    if cuda == "1" and nvcc is None:
        raise fail(
            "MRDA_KERNELS_CUDA=1, but there is no nvcc"
            + (" to go with a C++ compiler" if compiler is None else "")
            + "; install NVIDIA's CUDA toolkit, and set CUDA_HOME or the PATH to find it."
        )
    extensions = []
    if compiler is not None:
        NinjaBuild.compiler_command, NinjaBuild.nvcc, NinjaBuild.gpus = compiler, nvcc, []
        if nvcc is not None:
            request = os.environ.get("MRDA_KERNELS_CUDA_ARCHS", "")
            NinjaBuild.gpus = choose_gpus(request, gpus_here(), known_gpus(nvcc))
        extensions.append(Extension("mrda_kernels._C", [*KERNELS, *COMMON, *(CUDA if nvcc else [])]))
        if switch("MRDA_KERNELS_EMULATION") == "1":
            extensions.append(Extension("mrda_kernels._emulation", EMULATION))
    if sys.argv[1:] == ["in_place"]:
        # beside the sources, as `build_ext --inplace` does, but with any setuptools: old ones can't read pyproject.toml
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        build = extension_build(compiler or [], nvcc, NinjaBuild.gpus)
        run_ninja(build, ROOT / "build" / "in_place", ROOT / "mrda_kernels" / f"_C{suffix}")
        return
    setup(ext_modules=extensions, cmdclass={"build_ext": NinjaBuild})


if __name__ == "__main__":
    main()
