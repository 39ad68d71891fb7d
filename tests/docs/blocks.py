"""The blocks of commands and code of README and docs, and how each is to be run.

A comment on the line above a block says what a reader need not see:

    <!-- run: OLD => NEW; OLD => NEW -->    run it with NEW in place of OLD
    <!-- skip: REASON -->                   don't run it: only see that its commands take the options
    <!-- file: NAME -->                     no command, but a file that the page's commands read

README has no such comments; what to replace in its blocks stands in stand_ins.yaml.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
STAND_INS = yaml.safe_load((Path(__file__).parent / "stand_ins.yaml").read_text(encoding="utf-8"))

_FENCED = re.compile(
    r"(?:^ *<!-- (?P<kind>run|skip|file): (?P<note>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}(?:make|mrda|pip|python|torchrun) .*\n)(?: {4}.*\n)*")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    kind: str = "run"
    note: str = ""
    fenced: bool = True

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def code(self):
        """The text, with the stand-ins of its page and those that its comment names."""
        code = self.text
        for old, new in STAND_INS.get(self.page, {}).items():
            code = code.replace(old, new)
        if self.kind == "run" and self.note:
            for change in self.note.split("; "):
                old, new = change.split(" => ")
                assert old in code, f"{self}: there is no {old!r} to replace by {new!r}"
                code = code.replace(old, new)
        return code


def blocks(path):
    content = path.read_text(encoding="utf-8")
    page = path.relative_to(REPOSITORY).as_posix()
    for found in _FENCED.finditer(content):
        line = content.count("\n", 0, found.start("language")) + 1
        yield Block(
            page, line, found["language"], textwrap.dedent(found["text"]), found["kind"] or "run", found["note"] or ""
        )
    for found in _INDENTED.finditer(content):
        line = content.count("\n", 0, found.start()) + 1
        yield Block(page, line, "sh", textwrap.dedent(found[0]), fenced=False)


def inline_code(path):
    """The spans of code in the prose and tables of a page."""
    prose = _FENCED.sub("", path.read_text(encoding="utf-8"))
    return re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", prose)
