"""The check of a wheel's symbols, and the compilers that it is built by."""

import importlib.util
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks import gpu_model
from tools import wheel

setup = gpu_model.setup()


@pytest.mark.parametrize(
    ("version", "too_new"),
    [
        ("GLIBC_2.28", False),
        ("GLIBC_2.2.5", False),
        ("GLIBC_2.34", True),
        ("GLIBCXX_3.4.24", False),
        ("GLIBCXX_3.4.29", True),
        ("CXXABI_1.3.11", False),
        ("CXXABI_1.3.13", True),
        ("GCC_3.0", False),
        ("CXXABI_TM_1", False),
        ("GLIBC_PRIVATE", False),
        ("OPENSSL_3.0.0", False),
    ],
)
def test_versions_of_symbols(version, too_new):
    assert wheel.is_too_new(version) == too_new


def test_a_library_that_needs_newer_symbols_is_refused(tmp_path, monkeypatch):
    if importlib.util.find_spec("elftools") is None:
        pytest.skip("needs pyelftools, which make wheel installs")
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs g++ on Linux")
    (tmp_path / "a.c").write_text("#include <stdlib.h>\nvoid* f(void) { return malloc(8); }\n")
    library = tmp_path / "a.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-x", "c", tmp_path / "a.c", "-o", library], check=True)
    packed = tmp_path / "a.whl"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(library, "mrda_kernels/a.so")
    wheel.check_symbols(packed)
    monkeypatch.setitem(wheel.LIMITS, "GLIBC", (2, 1))
    with pytest.raises(
        SystemExit,
        match=r"^wheel: mrda_kernels/a\.so needs __cxa_finalize of GLIBC_\S+ and 1 more, "
        r"which manylinux_2_28 .* quay\.io/pypa/",
    ):
        wheel.check_symbols(packed)


def test_the_wheel_is_repaired_by_the_command_of_cibuildwheel(tmp_path, monkeypatch):
    commands = []

    def run(*command, **_):
        commands.append(list(map(str, command)))
        (Path(command[command.index("-w") + 1]) / "a-repaired.whl").touch()

    command = "auditwheel repair --exclude 'libtorch*' --exclude 'libmine*' -w {dest_dir} {wheel}"
    (tmp_path / "pyproject.toml").write_text(f'[tool.cibuildwheel.linux]\nrepair-wheel-command = "{command}"\n')
    assert {"libtorch*", "libcuda*"} < set(wheel.repairing())
    monkeypatch.setattr(wheel, "ROOT", tmp_path)
    monkeypatch.setattr(wheel, "run", run)
    assert wheel.repair(tmp_path / "a b.whl", tmp_path) == tmp_path / "a-repaired.whl"
    (words,) = commands
    assert words[:7] == [sys.executable, "-m", "auditwheel", "repair", "--exclude", "libtorch*", "--exclude"]
    assert words[7] == "libmine*"
    assert words[-3:] == [str(tmp_path / "a b.whl"), "--plat", f"manylinux_2_28_{platform.machine()}"]


def test_the_oldest_glibc_is_asked_for():
    assert wheel.zig().endswith("-linux-gnu.2.28")


def test_cuda_kernels_need_a_compiler_that_nvcc_takes(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("MRDA_KERNELS_CUDA", "1")
    with pytest.raises(SystemExit, match=r"^wheel: MRDA_KERNELS_CUDA=1, but nvcc does not take zig .* name one by CXX"):
        wheel.environment_of_build()
    monkeypatch.delenv("MRDA_KERNELS_CUDA")
    monkeypatch.setattr(wheel, "libgcc", lambda: "/lib/libgcc.a")
    assert wheel.environment_of_build()["MRDA_KERNELS_CUDA"] == "0"
    assert wheel.environment_of_build()["LDFLAGS"].endswith(" -s /lib/libgcc.a")
    monkeypatch.setenv("CXX", "g++")
    assert wheel.environment_of_build()["CXX"] == "g++"
    assert "MRDA_KERNELS_CUDA" not in wheel.environment_of_build()


def test_a_python_of_msvc_gets_the_reference_and_one_line(monkeypatch, capsys):
    monkeypatch.setattr(platform, "python_compiler", lambda: "MSC v.1944 64 bit (AMD64)")
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.delenv("MRDA_KERNELS_NATIVE", raising=False)
    passed = {}
    monkeypatch.setattr(setup, "setup", lambda **options: passed.update(options))
    monkeypatch.setattr(sys, "argv", ["setup.py", "bdist_wheel"])
    setup.main()
    assert passed["ext_modules"] == []
    assert capsys.readouterr().err == (
        "WARNING: mrda-kernels: this Python is built by MSVC, which lacks the vector types of GCC and Clang that the "
        "kernels use; only the slow reference backend is installed.\n"
    )
    monkeypatch.setenv("MRDA_KERNELS_NATIVE", "1")
    with pytest.raises(
        SystemExit, match=r"MRDA_KERNELS_NATIVE=1, but this Python is built by MSVC.*; leave it unset\.$"
    ):
        setup.main()


def test_zigs_names_of_processors_are_tried(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def probe(command, **_):
        refused = any(word.startswith("-march=") and "-" in word[7:] for word in command)
        return subprocess.CompletedProcess(command, int(refused))

    monkeypatch.setattr(subprocess, "run", probe)
    assert setup.instruction_sets(["zig"])["x86_64_v3"] == ["-march=x86_64_v3"]
