# SPDX-License-Identifier: Apache-2.0
"""Writes the kernels in the layout that Hugging Face's kernel-builder takes: ``python -m tools.hub``.

The C++ sources are copied; a small file for each instruction set includes those that are compiled once per set. The
Python sources are copied with relative imports, and with operators in the namespace of the builder's module `_ops`.
"""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
NAME = "mrda_kernels"
SETUP = runpy.run_path(str(ROOT / "setup.py"))
"""Names of setup.py: what the project's own build compiles, and the GPUs that it compiles for."""

LEFT_OUT = {"info.py", "backends/cuda_emulated.py"}
"""Python files that are for an installed package, or for this project's tests."""

CPU = tuple(Path(path).stem for path in SETUP["KERNELS"])
"""Sources that are compiled once per instruction set."""

AMX = tuple(Path(path).stem for path in SETUP["AMX_KERNELS"])
COMMON = tuple(Path(path).stem for path in SETUP["COMMON"] if path != "csrc/bindings.cpp")
V3 = "avx,avx2,bmi,bmi2,f16c,fma,lzcnt,movbe,popcnt"
V4 = f"{V3},avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
TARGETS = {"x86_64_v3": V3, "x86_64_v4": V4, "x86_64_amx": f"{V4},avx512bf16,amx-tile,amx-bf16"}
"""Instruction sets of x86-64, and the features of each as GCC's pragma takes them."""

CAPABILITIES = tuple(f"{gpu[:-1]}.{gpu[-1]}" for gpu in SETUP["ALL_GPUS"])
REPLACED = (
    (r"torch\.ops\.mrda_kernels\b", "ops"),
    (r'f"mrda_kernels::\{operator\}"', "add_op_namespace_prefix(operator)"),
    (r'"mrda_kernels::(\w+)"', r'add_op_namespace_prefix("\1")'),
    (r'Library\("mrda_kernels", ', 'Library(add_op_namespace_prefix("").removesuffix("::"), '),
    (r'f"mrda_kernels\.backends\.\{', '__name__.rpartition(".")[0] + f".backends.{'),
    (r'f"mrda_kernels\.\{name\}"', "f\"{__name__.rpartition('.')[0]}.{name}\""),
    (r'\{None, module, "mrda_kernels"\}', '{None, module, __name__.rpartition(".")[0]}'),
)


# ---- Python --------------------------------------------------------------------------------------------------------


def relative(text: str, path: Path) -> str:
    """Rewrite a module of mrda_kernels: relative imports, and operators in the builder's namespace.

    Args:
        text: The module.
        path: Its path below mrda_kernels.

    Raises:
        ValueError: something still names the package, so that two versions of it would get in each other's way.
    """
    dots = "." * len(path.parts)
    text = re.sub(rf"^(\s*)from {NAME}\.([\w.]+) import ", rf"\1from {dots}\2 import ", text, flags=re.MULTILINE)
    text = re.sub(rf"^(\s*)from {NAME} import ", rf"\1from {dots} import ", text, flags=re.MULTILINE)
    for pattern, replacement in REPLACED:
        text = re.sub(pattern, replacement, text)
    names = [name for name in ("add_op_namespace_prefix", "ops") if re.search(rf"(?<![\w.]){name}\b(?! =)", text)]
    if "    ops = ops\n" in text:  # a local name for what is global now
        text = text.replace("    ops = ops\n", "")
        names = sorted({*names, "ops"})
    if names:
        first = re.search(rf"^from {re.escape(dots)}\w* ?import |^import torch\n", text, flags=re.MULTILINE)
        assert first is not None
        line = f"from {dots}_ops import {', '.join(names)}\n"
        text = text[: first.start()] + line + text[first.start() :]
    check(text, path)
    return text


def check(text: str, path: Path) -> None:
    """Raise ValueError unless a module imports torch, triton, the standard library and relative modules only."""
    tree = ast.parse(text)
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        for module in modules:
            if module.partition(".")[0] not in {"torch", "triton", *sys.stdlib_module_names}:
                raise ValueError(f"{path}, line {node.lineno}: it imports {module}, which is not the kernel's own")
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
        if is_text and re.search(rf"{NAME}(::|\.\{{|$)", node.value) and node.value != NAME:
            raise ValueError(f"{path}, line {node.lineno}: {node.value!r} names the package's namespace")
        if isinstance(node, ast.Attribute) and node.attr == NAME:
            raise ValueError(f"{path}, line {node.lineno}: it uses the namespace {NAME}")


# ---- C++ -----------------------------------------------------------------------------------------------------------


def source_of(isa: str, name: str) -> str:
    """Return the C++ file that compiles a source for an instruction set, and nothing on other processors."""
    include = f'#define MRDA_ISA {isa}\n#include "../../csrc/cpu/{name}.cpp"\n'
    if isa == "baseline":
        return include
    # a pragma, as the builder's flags would be for every processor
    linux = " && defined(__linux__)" if isa == "x86_64_amx" else ""
    return f'#if defined(__x86_64__){linux}\n#pragma GCC target("{TARGETS[isa]}")\n{include}#endif\n'


def sources() -> dict[str, str]:
    """Return the C++ files that are made here, by their paths."""
    found = {
        f"cpu/{isa}/{name}.cpp": source_of(isa, name) for isa in ("baseline", "x86_64_v3", "x86_64_v4") for name in CPU
    }
    found |= {f"cpu/x86_64_amx/{name}.cpp": source_of("x86_64_amx", name) for name in AMX}
    known = "#if defined(__x86_64__)\n#define MRDA_HAS_x86_64_v3\n#define MRDA_HAS_x86_64_v4\n"
    known += "#if defined(__linux__)\n#define MRDA_HAS_x86_64_amx\n#endif\n#endif\n"
    for name in COMMON:
        found[f"cpu/{name}.cpp"] = f'#define MRDA_HAS_baseline\n{known}#include "../csrc/cpu/{name}.cpp"\n'
    return found


def configuration(cpu: list[str], cpu_headers: list[str], cuda: list[str]) -> str:
    """Return build.toml."""

    def array(values: list[str] | tuple[str, ...]) -> str:
        return "[\n" + "".join(f'  "{value}",\n' for value in values) + "]"

    parts = [
        f'[general]\nname = "{NAME}"\nversion = 0\nbackends = ["cpu", "cuda"]',
        f'[torch]\nsrc = {array(["torch-ext/torch_binding.cpp", *cpu_headers])}\nminver = "2.11"',
    ]
    for backend in ("cpu", "cuda"):  # tensors of CPUs are served in both variants
        parts.append(f'[kernel.cpu_for_{backend}]\nbackend = "{backend}"\ndepends = ["torch"]')
        parts[-1] += f"\nsrc = {array([*cpu, *cpu_headers])}"
    parts.append(f'[kernel.gpu]\nbackend = "cuda"\ndepends = ["torch"]\ncuda-capabilities = {array(CAPABILITIES)}')
    parts[-1] += f"\nsrc = {array([*cuda, 'csrc/rda_conv.h'])}"
    return "\n\n".join(parts) + "\n"


def generate(out: Path) -> None:
    """Write the whole tree to ``out``, which must not exist or be one of these trees."""
    if out.exists() and not (out / "build.toml").exists():
        raise SystemExit(f"hub: {out} exists and is no tree of kernels; name another folder with --out.")
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        folder = Path(name) / "kernels"
        for part in ("cpu", "cuda"):
            shutil.copytree(ROOT / "csrc" / part, folder / "csrc" / part, ignore=shutil.ignore_patterns("bindings.h"))
        shutil.copy(ROOT / "csrc" / "rda_conv.h", folder / "csrc")
        made = sources()
        for path, text in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        package = folder / "torch-ext" / NAME
        for path in sorted((ROOT / NAME).rglob("*.py")):
            below = path.relative_to(ROOT / NAME)
            if below.as_posix() not in LEFT_OUT:
                (package / below).parent.mkdir(parents=True, exist_ok=True)
                (package / below).write_text(relative(path.read_text(encoding="utf-8"), below))
        shutil.copy(HERE / "_C.py", package)
        architectures = " ".join(f"sm_{capability.replace('.', '')}" for capability in CAPABILITIES)
        binding = (
            (HERE / "torch_binding.cpp").read_text().replace("return MRDA_HAS_CUDA;", f'return "{architectures}";')
        )
        (folder / "torch-ext" / "torch_binding.cpp").write_text(binding)
        shutil.copy(HERE / "flake.nix", folder)
        shutil.copy(ROOT / "LICENSE", folder)
        files = {part: sorted((folder / "csrc" / part).iterdir()) for part in ("cpu", "cuda")}
        included = [path.relative_to(folder).as_posix() for path in files["cpu"]] + ["csrc/rda_conv.h"]
        cuda = [path.relative_to(folder).as_posix() for path in files["cuda"]]
        (folder / "build.toml").write_text(configuration(list(made), [p for p in included if p.endswith(".h")], cuda))
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)


def main() -> None:
    """Write the tree that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tools.hub", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "kernels", help="folder for the tree")
    generate(parser.parse_args().out)


if __name__ == "__main__":
    main()
