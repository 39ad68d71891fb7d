"""Rules of the house that no linter checks: the packages' layout, and the first words of docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mrda", "mrda_kernels", "benchmarks", "examples", "tools")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
DOCUMENTED = [
    *SOURCES,
    ROOT / "setup.py",
    *(path for folder in ("docs", "tests") for path in sorted((ROOT / folder).rglob("*.py"))),
]
QUESTION = re.compile(r"(What|Whatever|Whether|How|Where|Of|Why|Which)\b")
ODD = re.compile(
    r"\blest\b|\bof no use after\b|\bfor otherwise\b|, for (it|they|there|those|nobody) (is|are|has|have|would)\b"
)


def docstrings(path):
    """Lines and texts of all docstrings of a file, those of fields among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for item in getattr(node, "body", None) if isinstance(getattr(node, "body", None), list) else []:
            match item:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield item.lineno, text.strip()


def test_the_root_of_mrda_holds_packages_only():
    files = {path.name for path in (ROOT / "mrda").iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "py.typed", "pyproject.toml", "setup.cfg", "LICENSE"}


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_begin_with_a_verb_or_name_the_thing(path):
    found = [f"line {line}: {text.splitlines()[0]}" for line, text in docstrings(path) if QUESTION.match(text)]
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sentences_are_modern_english(path):
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    assert not [f"line {number}: {line.strip()}" for number, line in lines if ODD.search(line)]


def test_one_module_opens_images():
    """Pillow, given no list of formats, hands PostScript to Ghostscript, whatever the file's suffix."""
    opening = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open") and not given_formats(node)
    ]
    assert not opening
    inside = ROOT / "mrda"
    calls = {path for path in inside.rglob("*.py") if re.search(r"(?<!>>> upscaler\()Image\.open\(", path.read_text())}
    assert calls == {inside / "photo" / "opening.py"}


def given_formats(call):
    return any(keyword.arg == "formats" for keyword in call.keywords)
