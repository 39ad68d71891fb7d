# SPDX-License-Identifier: Apache-2.0
"""Builds the extension mrda_kernels._C with ninja: plain C++ and CUDA, bound by pybind11; no torch.

Without a C++ compiler the package installs all the same, with the reference backend alone, and so it does for a Python
built by MSVC, which lacks GNU's vector types; without nvcc, without the CUDA kernels. torch's own builder refuses CUDA
beside a CPU-only torch; this one never asks torch.

Environment variables:

CXX, CXXFLAGS, LDFLAGS    as usual
MRDA_KERNELS_NATIVE       0: no extension; 1: a missing C++ compiler is an error
MRDA_KERNELS_CUDA         0: no CUDA kernels; 1: a missing nvcc is an error
MRDA_KERNELS_CUDA_ARCHS   GPUs to build for, as compute capabilities: "80,90", or "all"; by default those that
                          TORCH_CUDA_ARCH_LIST names, else the GPU in this machine, else 90, or the newest that nvcc
                          knows. The newest one's PTX is built in too, for GPUs to come.
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
KERNELS = [  # once per instruction set,
    f"csrc/cpu/{name}.cpp" for name in ("forward", "backward", "conv3x3", "conv3x3_weight_gradient")
]
AMX_KERNELS = ["csrc/cpu/conv3x3.cpp"]  # but these alone for x86_64_amx, which is x86_64_v4 otherwise
COMMON = ["csrc/cpu/launch.cpp", "csrc/cpu/pack_conv3x3.cpp", "csrc/bindings.cpp"]
CUDA_SOURCES = ("forward", "backward", "strip", "strip_forward_half", "strip_forward_float", "strip_backward")
CUDA = [f"csrc/cuda/{name}.cu" for name in (*CUDA_SOURCES, "conv3x3", "conv5x5")]
EMULATION = [
    f"csrc/emulation/{name}.cpp" for name in ("emulation", "instructions", "faulty", "product", "bindings")
] + CUDA
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-forward-unknown-to-host-compiler"]
ALL_GPUS = ["80", "86", "89", "90", "100"]
DEFAULT_GPU = "90"
OLDEST_GPU = 80  # asynchronous copies came with it
MSVC = "this Python is built by MSVC, which lacks the vector types of GCC and Clang that the kernels use"
LAUNCHERS = {"ccache", "sccache", "distcc", "env"}  # which start the compiler in a command
GENERATIONS = {  # names that torch takes
    "Pascal": "6.0 6.1",
    "Volta": "7.0",
    "Turing": "7.5",
    "Ampere": "8.0 8.6",
    "Ampere+Tegra": "8.7",
    "Ada": "8.9",
    "Hopper": "9.0",
    "Blackwell": "10.0 10.3 12.0 12.1",
    "Blackwell+Tegra": "11.0",
}


def fail(message: str) -> SystemExit:
    return SystemExit(f"mrda-kernels: {message}")


def say(kind: str, message: str) -> None:
    print(f"{kind}: mrda-kernels: {message}", file=sys.stderr)


# ---- compilers -----------------------------------------------------------------------------------------------------


def find_compiler() -> tuple[list[str] | None, str]:
    """Return the compiler's command, and an empty text; if there is none, None, and what is missing."""
    if platform.python_compiler().startswith("MSC"):  # which the extension would have to be compiled by, too
        return None, MSVC
    requested = os.environ.get("CXX", "")
    for candidate in [requested] if requested else ["g++", "clang++", "c++"]:
        words = shlex.split(candidate)
        programs = [word for word in words if Path(word).name in LAUNCHERS]
        programs.append(compiler_of(words) or "compiler")
        missing = [program for program in programs if not shutil.which(program)]
        if not missing:
            return words, ""
    if not requested:
        return None, "there is no C++ compiler (g++ or clang++)"
    return None, f"CXX is {requested!r}, and there is no {' and no '.join(missing)}"


def compiler_of(words: list[str]) -> str | None:
    """Find the compiler itself in a command that may start with launchers and settings."""
    return next((word for word in words if Path(word).name not in LAUNCHERS and "=" not in word), None)


def instruction_sets(compiler: list[str]) -> dict[str, list[str]]:
    """Name -> compiler flags. The kernels choose among them at run time, so the binary runs on any machine."""
    sets: dict[str, list[str]] = {"baseline": []}
    if platform.machine().lower() in {"x86_64", "amd64"}:
        known = {"x86_64_v3": ["x86-64-v3"], "x86_64_v4": ["x86-64-v4"]}
        if sys.platform == "linux":  # elsewhere the matrix unit is asked for in other ways
            known["x86_64_amx"] = ["x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
        for name, (processor, *others) in known.items():
            for spelling in (processor, processor.replace("-", "_")):  # zig's clang takes the second
                flags = [f"-march={spelling}", *others]
                probe = [*compiler, *flags, "-E", "-x", "c++", os.devnull]  # older compilers do not know them
                if subprocess.run(probe, capture_output=True).returncode == 0:
                    sets[name] = flags
                    break
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
    """Those of nvcc's that the kernels can be built for."""
    try:
        listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise fail(f"{nvcc} --list-gpu-code fails ({said}): repair it, or set MRDA_KERNELS_CUDA=0.") from error
    return sorted(
        (gpu for gpu in re.findall(r"^sm_(\d+)$", listed, flags=re.MULTILINE) if int(gpu) >= OLDEST_GPU), key=int
    )


def gpus_here() -> list[str]:
    """Compute capabilities of this machine's GPUs, without torch."""
    try:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(set(re.findall(r"^\s*(\d+\.\d)\s*$", listed, flags=re.MULTILINE)))


def named_gpus(variable: str, text: str) -> list[str]:
    """Read a list of GPUs, in our syntax ("80,90") or torch's ("8.0;8.6+PTX 9.0a", "Ampere;Hopper")."""
    numbers = []
    for word in re.split(r"[\s,;]+", text.strip()):
        name = word.removesuffix("+PTX")
        for capability in GENERATIONS.get(name, name).split():
            number = re.fullmatch(r"(\d+)\.?(\d)[af]?", capability)
            if number is None:
                raise fail(f"{variable} is {text!r}, but {word!r} is no compute capability, such as 8.0.")
            numbers.append(number[1] + number[2])
    return sorted(set(numbers), key=int)


def choose_gpus(request: str, torchs: str, here: list[str], known: list[str]) -> tuple[list[str], str]:
    """Choose the GPUs to build for: those requested, otherwise those of torch's list, of this machine, or the default.

    They are limited to what nvcc knows and the kernels run on.

    Args:
        request: MRDA_KERNELS_CUDA_ARCHS.
        torchs: TORCH_CUDA_ARCH_LIST.
        here: compute capabilities of this machine's GPUs, such as "9.0".
        known: what nvcc can build for, and the kernels run on.

    Returns:
        The GPUs, none if the kernels can't be built for any; and a sentence about those that are left out, or nothing.
    """
    if request.strip() not in {"", "all"}:
        wanted = named_gpus("MRDA_KERNELS_CUDA_ARCHS", request)
        if unknown := [gpu for gpu in wanted if gpu not in known]:
            raise fail(
                f"MRDA_KERNELS_CUDA_ARCHS is {request!r}, but this nvcc does not know {', '.join(unknown)}; "
                f"it must be 'all' or some of {', '.join(known)}."
            )
        return wanted, ""
    if not known:
        return [], f"this nvcc knows no GPU from sm_{OLDEST_GPU} on, which the CUDA kernels need"
    if request.strip() == "all":
        return [gpu for gpu in ALL_GPUS if gpu in known], ""
    if torchs.strip():
        wanted = named_gpus("TORCH_CUDA_ARCH_LIST", torchs)
        left_out = [f"sm_{gpu}" for gpu in wanted if gpu not in known]
        note = f"TORCH_CUDA_ARCH_LIST names {', '.join(left_out)}, which the CUDA kernels can't be built for here"
        return [gpu for gpu in wanted if gpu in known], note if left_out else ""
    present = [capability.replace(".", "") for capability in here]
    old = [f"sm_{gpu}" for gpu in present if int(gpu) < OLDEST_GPU]
    note = f"the CUDA kernels need sm_{OLDEST_GPU} or later, but this machine has {', '.join(old)}" if old else ""
    # a GPU that this nvcc does not know is served by the PTX for an older one
    chosen = {next((own for own in reversed(known) if int(own) <= int(gpu)), None) for gpu in present}
    if present:
        return sorted(filter(None, chosen), key=int), note
    default = max((gpu for gpu in known if int(gpu) <= int(DEFAULT_GPU)), key=int, default=known[0])
    if default != DEFAULT_GPU:
        note = f"this nvcc does not know sm_{DEFAULT_GPU}: the CUDA kernels are built for sm_{default} and its PTX"
    return [default], note


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
            host = compiler_of(self.compiler) or ""
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
        for source in AMX_KERNELS if isa == "x86_64_amx" else KERNELS:
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


def check_build_packages() -> None:
    """Fail, with the names, if packages that build the extension are missing."""
    if missing := [name for name in ("pybind11", "ninja") if importlib.util.find_spec(name) is None]:
        raise fail(
            f"building the extension needs {' and '.join(missing)}: pip install {' '.join(missing)}, "
            "or leave --no-build-isolation out, so that pip brings them; MRDA_KERNELS_NATIVE=0 installs the package "
            "without the extension."
        )


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
        check_build_packages()
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


def find_cuda(cuda: str, compiler: list[str] | None) -> tuple[str | None, list[str]]:
    """Return nvcc and the GPUs to build for; None and nothing if the CUDA kernels are left out."""
    nvcc = None if compiler is None or cuda == "0" else find_nvcc()
    if nvcc is None:
        if cuda == "1":
            raise fail(
                "MRDA_KERNELS_CUDA=1, but there is no nvcc"
                + (" to go with a C++ compiler" if compiler is None else "")
                + "; install NVIDIA's CUDA toolkit, and set CUDA_HOME or the PATH to find it."
            )
        return None, []
    request, torchs = (os.environ.get(name, "") for name in ("MRDA_KERNELS_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"))
    gpus, note = choose_gpus(request, torchs, gpus_here(), known_gpus(nvcc))
    if not gpus:
        if cuda == "1":
            raise fail(f"MRDA_KERNELS_CUDA=1, but {note}; MRDA_KERNELS_CUDA_ARCHS names GPUs of another machine.")
        say("NOTE", f"{note}; they are left out.")
        return None, []
    if note:
        say("NOTE", f"{note}.")
    return nvcc, gpus


def main() -> None:
    native, cuda = switch("MRDA_KERNELS_NATIVE"), switch("MRDA_KERNELS_CUDA")
    compiler, missing = (None, "") if native == "0" else find_compiler()
    if compiler is None and native == "1":
        cure = "leave it unset" if missing == MSVC else "install g++ or clang++"
        raise fail(f"MRDA_KERNELS_NATIVE=1, but {missing}; {cure}.")
    if compiler is None and native != "0":
        say("WARNING", f"{missing}; only the slow reference backend is installed.")
    nvcc, gpus = find_cuda(cuda, compiler)
    extensions = []
    if compiler is not None:
        NinjaBuild.compiler_command, NinjaBuild.nvcc, NinjaBuild.gpus = compiler, nvcc, gpus
        extensions.append(Extension("mrda_kernels._C", [*KERNELS, *COMMON, *(CUDA if nvcc else [])]))
        if switch("MRDA_KERNELS_EMULATION") == "1":
            extensions.append(Extension("mrda_kernels._emulation", EMULATION))
    if sys.argv[1:] == ["in_place"]:
        # beside the sources, as `build_ext --inplace` does, but with any setuptools: old ones can't read pyproject.toml
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        check_build_packages()
        build = extension_build(compiler or [], nvcc, gpus)
        run_ninja(build, ROOT / "build" / "in_place", ROOT / "mrda_kernels" / f"_C{suffix}")
        return
    setup(ext_modules=extensions, cmdclass={"build_ext": NinjaBuild})


if __name__ == "__main__":
    main()
