"""Building the CUDA kernels: the GPUs to build for, the compiled code, and the messages of a failed build."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_model
from mrda_kernels.backends import cuda, load_extension

ROOT = Path(__file__).parents[2]
ENTRIES = re.compile(r"Compiling entry function '(\w+)'")
KERNELS = (
    "forward_kernel",
    "mask_backward_kernel",
    "backward_kernel",
    "reduce_kernel",
    "strip_forward_half_kernel",
    "strip_forward_float_kernel",
    "strip_backward_kernel",
)

setup = gpu_model.setup()
NVCC = setup.find_nvcc()
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="there is no nvcc")


# ---- GPUs to build for ---------------------------------------------------------------------------------------------

KNOWN = ["80", "86", "89", "90", "100", "120"]


OLDER = ["80", "86", "89"]  # before sm_90


@pytest.mark.parametrize(
    ("request_", "torchs", "here", "known", "chosen", "note"),
    [
        ("", "", [], KNOWN, ["90"], ""),
        ("", "", ["8.6"], KNOWN, ["86"], ""),
        ("", "", ["10.0", "9.0"], KNOWN, ["90", "100"], ""),
        ("", "", ["13.0"], KNOWN, ["120"], ""),  # newer than this nvcc: served by the newest PTX
        ("", "", ["10.3"], ["80", "90", "100", "120"], ["100"], ""),  # in between: 120's does not run on it
        ("", "", ["7.5"], KNOWN, [], "need sm_80 or later, but this machine has sm_75"),
        ("", "", ["7.0", "8.6"], KNOWN, ["86"], "need sm_80 or later, but this machine has sm_70"),
        ("", "", [], OLDER, ["89"], "does not know sm_90: the CUDA kernels are built for sm_89 and its PTX"),
        ("", "", ["9.0"], OLDER, ["89"], ""),
        ("", "", [], ["100", "120"], ["100"], "does not know sm_90"),  # a future nvcc
        ("", "", ["8.6"], [], [], "knows no GPU from sm_80 on"),
        ("all", "", ["9.0"], KNOWN, ["80", "86", "89", "90", "100"], ""),
        ("all", "", [], OLDER, OLDER, ""),
        ("all", "", [], [], [], "knows no GPU from sm_80 on"),
        ("100, 8.0", "7.0", ["9.0"], KNOWN, ["80", "100"], ""),
        ("90a", "", [], KNOWN, ["90"], ""),
        ("", "8.0;8.6+PTX 9.0a", ["8.9"], KNOWN, ["80", "86", "90"], ""),
        ("", "7.0 7.5 8.0 9.0+PTX", [], KNOWN, ["80", "90"], "TORCH_CUDA_ARCH_LIST names sm_70, sm_75, which"),
        ("", "Turing;Ampere;Hopper", [], KNOWN, ["80", "86", "90"], "names sm_75, which"),
        ("", "7.5", ["8.6"], KNOWN, [], "names sm_75, which"),
        ("", "9.0", [], OLDER, [], "names sm_90, which"),
    ],
)
def test_the_gpus_to_build_for(request_, torchs, here, known, chosen, note):
    gpus, said = setup.choose_gpus(request_, torchs, here, known)
    assert gpus == chosen
    assert note in said
    assert bool(note) == bool(said)


def test_a_gpu_that_nvcc_does_not_know():
    with pytest.raises(SystemExit, match=r"_ARCHS is '90,95', but this nvcc does not know 95; .*'all'"):
        setup.choose_gpus("90,95", "", [], KNOWN)


@pytest.mark.parametrize("text", ["9.0 Hoper", "8", "9.0b"])
def test_a_list_of_gpus_that_is_none(text):
    with pytest.raises(SystemExit, match=rf"TORCH_CUDA_ARCH_LIST is '{text}', but '{text.split()[-1]}' is no compute"):
        setup.choose_gpus("", text, [], KNOWN)


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("sm_90 compute_90", (9, 0), True),
        ("sm_90 compute_90", (10, 0), True),  # by its PTX
        ("sm_90 compute_90", (8, 0), False),
        ("sm_80 sm_90", (8, 6), True),  # machine code runs on later minor versions
        ("sm_80 sm_90", (10, 0), False),
        ("sm_86", (8, 0), False),
        ("sm_100 compute_100", (12, 0), True),
    ],
)
def test_what_a_build_runs_on(built, capability, runs):
    assert cuda.runs_on(built, capability) is runs


def test_why_a_gpu_is_not_served():
    assert cuda._why_not_on(0, "sm_90 compute_90", (9, 0)) is None
    assert "need sm_80" in cuda._why_not_on(0, "sm_90 compute_90", (7, 5))
    assert "need sm_80" in cuda._why_not_on(0, "", (7, 5))  # nor was anything built for it
    assert cuda._why_not_on(1, "sm_90 compute_90", (8, 6)) == (
        "GPU 1 is sm_86, and the extension was built for sm_90 compute_90; "
        "install the package again with MRDA_KERNELS_CUDA_ARCHS=86 "
        "pip install --force-reinstall --no-deps --no-cache-dir"
    )


@needs_nvcc
@pytest.mark.skipif(os.environ.get("MRDA_KERNELS_CUDA") == "0", reason="the CUDA kernels were left out on purpose")
def test_where_nvcc_is_found_the_extension_has_the_kernels_and_loads_without_a_driver():
    extension, missing = load_extension()
    if missing is not None:
        pytest.skip(missing)
    assert hasattr(extension, "rda_conv_forward_cuda")
    assert "compute_" in extension.cuda_architectures
    assert extension.cuda_versions()[0] >= 12000


# ---- messages of a failed build ------------------------------------------------------------------------------------


def run_setup(folder, **environment):
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder / "lib"), "--build-temp", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_missing_nvcc_is_an_error_where_cuda_is_demanded(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "g++").symlink_to(shutil.which("g++") or "/bin/false")
    done = run_setup(tmp_path, MRDA_KERNELS_CUDA="1", PATH=str(tools), CUDA_HOME="", CUDA_PATH="", CXX="g++")
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("mrda-kernels: MRDA_KERNELS_CUDA=1, but there is no nvcc; install")


def test_a_kernel_that_does_not_compile_shows_command_message_and_cure(tmp_path):
    cxx, nvcc = tmp_path / "g++", tmp_path / "nvcc"
    cxx.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && touch "$2"; shift; done\n')  # compiles nothing
    nvcc.write_text(
        '#!/bin/sh\ncase "$*" in *--list-gpu-code*) echo sm_90;; *) echo "kernel is wrong" >&2; exit 1;; esac\n'
    )
    for tool in (cxx, nvcc):
        tool.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run_setup(tmp_path, PATH=path, CUDA_HOME="", CUDA_PATH="", CXX=str(cxx), MRDA_KERNELS_CUDA="1")
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert re.search(rf"{re.escape(str(nvcc))}.*-gencode=arch=compute_90,code=sm_90.*csrc/cuda/\w+\.cu", output)
    assert "kernel is wrong" in output
    assert "MRDA_KERNELS_CUDA=0" in output


def test_without_cuda_on_demand_no_nvcc_is_asked(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\ntouch {tmp_path / 'asked'}\n")
    nvcc.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = [sys.executable, "setup.py", "--version"]
    environment = {**os.environ, "PATH": path, "CUDA_HOME": "", "MRDA_KERNELS_CUDA": "0"}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert not (tmp_path / "asked").exists()


def test_a_broken_nvcc_is_named_with_a_cure(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho no license >&2\nexit 1\n")
    nvcc.chmod(0o755)
    done = run_setup(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}", CUDA_HOME="", CUDA_PATH="")
    assert done.stderr.splitlines()[-1] == (
        f"mrda-kernels: {nvcc} --list-gpu-code fails (no license): repair it, or set MRDA_KERNELS_CUDA=0."
    )


def fake_tool(folder, name, script="exit 0"):
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


@pytest.mark.parametrize(
    ("command", "tools", "missing"),
    [
        ("ccache g++", ["g++"], "CXX is 'ccache g++', and there is no ccache"),
        ("ccache g++", ["ccache"], "CXX is 'ccache g++', and there is no g++"),
        ("/usr/lib/none/sccache g++", [], "and there is no /usr/lib/none/sccache and no g++"),
        ("env LANG=C g++", ["env"], "CXX is 'env LANG=C g++', and there is no g++"),
        ("ccache", ["ccache"], "CXX is 'ccache', and there is no compiler"),
        ("", [], "there is no C++ compiler (g++ or clang++)"),
    ],
)
def test_the_part_of_a_compilers_command_that_is_missing_is_named(tmp_path, monkeypatch, command, tools, missing):
    for tool in tools:
        fake_tool(tmp_path, tool)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", command)
    compiler, said = setup.find_compiler()
    assert compiler is None
    assert missing in said


def test_compilers_behind_launchers_are_found(tmp_path, monkeypatch):
    for tool in ("ccache", "env", "g++"):
        fake_tool(tmp_path, tool)
    monkeypatch.setenv("PATH", str(tmp_path))
    for command in ("g++", "ccache g++", "env LANG=C ccache g++ -pipe"):
        monkeypatch.setenv("CXX", command)
        assert setup.find_compiler() == (command.split(), "")


@pytest.mark.parametrize("missing", [["ninja"], ["pybind11", "ninja"]])
def test_missing_packages_of_the_build_are_named(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(SystemExit, match=rf"needs {' and '.join(missing)}: pip install {' '.join(missing)}, or leave"):
        setup.check_build_packages()


@pytest.mark.parametrize(("switch", "code"), [("", 0), ("1", 1)])
def test_an_old_gpu_is_told_so_and_gets_no_cuda_build(tmp_path, switch, code):
    fake_tool(tmp_path, "nvcc", "echo sm_75; echo sm_80; echo sm_90")
    fake_tool(tmp_path, "nvidia-smi", "echo 7.5")
    fake_tool(tmp_path, "g++")
    path = f"{tmp_path}:{os.environ['PATH']}"
    unset = {"CUDA_HOME": "", "CUDA_PATH": "", "MRDA_KERNELS_CUDA_ARCHS": "", "TORCH_CUDA_ARCH_LIST": "", "CXX": ""}
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, **unset, "PATH": path, "MRDA_KERNELS_CUDA": switch},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert "the CUDA kernels need sm_80 or later, but this machine has sm_75" in done.stderr


def test_a_switch_is_0_or_1(tmp_path):
    done = run_setup(tmp_path, MRDA_KERNELS_CUDA="yes")
    assert done.stderr.splitlines()[-1] == "mrda-kernels: MRDA_KERNELS_CUDA is 'yes', but must be 0, 1 or not set."


def test_nvcc_is_found_by_cuda_home_before_the_path(tmp_path, monkeypatch):
    for name in ("home", "path"):
        (tmp_path / name / "bin").mkdir(parents=True)
        nvcc = tmp_path / name / "bin" / "nvcc"
        nvcc.write_text("#!/bin/sh\n")
        nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    assert setup.find_nvcc() == str(tmp_path / "home" / "bin" / "nvcc")
    monkeypatch.delenv("CUDA_HOME")
    assert setup.find_nvcc() == str(tmp_path / "path" / "bin" / "nvcc")


def test_nvcc_is_found_in_nvidias_wheel(tmp_path, monkeypatch):
    nvcc = tmp_path / "nvidia" / "cu13" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("nvidia", None)
    assert setup.find_nvcc() == str(nvcc)


# ---- compiled code -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    """Compile the kernels for one GPU, once in all tests: the cubin of each source, and the messages of ptxas."""

    @functools.cache
    def compile_for(gpu):
        return gpu_model.compile_sources(setup.CUDA, gpu, tmp_path_factory.mktemp(f"sm_{gpu}"))

    return compile_for


@pytest.fixture(scope="module", params=gpu_model.GPUS)
def compiled(request, cubins):
    """Give each kernel's share of a multiprocessor, by its mangled name."""
    return {name: use for _, said in cubins(request.param) for name, use in gpu_model.uses(said).items()}


needs_cuobjdump = pytest.mark.skipif(gpu_model.find_cuobjdump() is None, reason="there is no cuobjdump")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_kernel_spills_or_uses_local_memory(request, compiled, kernel):
    ours = {name: use for name, use in compiled.items() if re.search(rf"\d{kernel}I", name)}
    assert len(ours) >= 3  # a few dtypes of it
    using = {name: use.local for name, use in ours.items() if use.local}
    if kernel == "backward_kernel" and request.node.callspec.params["compiled"] == "100":
        # In float64 without a mask, three blocks of it leave an address no register there: it is stored, in 16 bytes.
        assert all(re.search(r"backward_kernelIdLi3ELb0ELb1EE", name) and local <= 16 for name, local in using.items())
    else:
        assert using == {}


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "types", "threads", "blocks"),
    [
        ("forward_kernel", "6__half|13__nv_bfloat16", 128, 3),
        ("forward_kernel", "f|d", 256, 2),
        ("backward_kernel", "6__half|13__nv_bfloat16|f", 192, 2),
    ],
)
def test_several_blocks_of_the_usual_kernels_fit_on_a_multiprocessor(compiled, kernel, types, threads, blocks):
    # K = 3, in vectors, with and without a mask; a multiprocessor has 65,536 registers
    usual = [name for name in compiled if re.search(rf"\d{kernel}I({types})Li3E\w+Lb1EE", name)]
    assert len(usual) == 2 * len(types.split("|"))
    assert all(compiled[name].registers * threads * blocks <= 65536 for name in usual)


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "blocks", "shared_bytes"),
    [
        ("strip_forward_half_kernel", 2, 47_232),
        ("strip_forward_float_kernel", 4, 34_816),
        ("strip_backward_kernel", 2, 91_136),
    ],
)
def test_several_blocks_of_the_kernels_for_strips_fit_on_a_multiprocessor(compiled, kernel, blocks, shared_bytes):
    ours = [use for name, use in compiled.items() if re.search(rf"\d{kernel}I", name)]
    assert all(use.registers * 128 * blocks <= 65536 for use in ours)
    assert (shared_bytes + 1024) * blocks <= 228 << 10  # of sm_90


def machine_code(cubins, gpu, source, pattern):
    """The machine code of the kernels that match a pattern, by their mangled names."""
    for cubin, said in cubins(gpu):
        if cubin.stem == source:
            return gpu_model.disassemble(cubin, [name for name in ENTRIES.findall(said) if re.search(pattern, name)])
    raise AssertionError(f"{source} is not compiled")


@needs_nvcc
@needs_cuobjdump
@pytest.mark.slow
@pytest.mark.parametrize("source", ["forward", "backward"])
def test_rows_are_copied_16_bytes_at_a_time(cubins, source):
    codes = machine_code(cubins, "90", source, r"ward_kernelI\w+Li3E\w*Lb1EEE")  # in vectors
    assert len(codes) == 2 * 4
    for code in codes.values():
        copies = [text for text in code.values() if "LDGSTS" in text]
        assert copies
        assert all(".128" in text for text in copies)


@needs_nvcc
@needs_cuobjdump
@pytest.mark.slow
@pytest.mark.parametrize("gpu", gpu_model.GPUS)
@pytest.mark.parametrize(
    "kernel",
    [kernel for kernel in gpu_model.KERNELS if not kernel.loops],  # the others: test_conv_code.py
    ids=lambda kernel: f"{kernel.name}-{kernel.dtype}",
)
def test_the_code_of_the_modelled_kernels(cubins, gpu, kernel):
    if gpu not in kernel.gpus:
        pytest.skip("its code for this GPU is longer than the budget")
    (code,) = machine_code(cubins, gpu, kernel.source, kernel.function).values()
    loop = gpu_model.row_loop(code)
    names = [gpu_model.operation(text) for text in loop]
    assert len(loop) / kernel.elements <= gpu_model.budget(kernel, gpu)
    assert not [text for text in code.values() if re.search(r"\b(RET|LDL|STL)\b", text)]  # a division is a call
    assert not [name for name in names if re.match(r"(LD|ST)(\.|$)", name)]  # those find out which memory it is
    assert {name for name in names if name.startswith("LDGSTS")} <= {"LDGSTS.E.BYPASS.128"}
    width = ".64" if kernel.name == "backward" and kernel.dtype != "float32" else ".128"  # 4 channels
    stores = [name for name in names if name.startswith("STG")]
    assert stores
    assert all(width in name for name in stores)
