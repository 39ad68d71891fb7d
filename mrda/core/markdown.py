# SPDX-License-Identifier: Apache-2.0
"""Markdown tables, and the sections of a page that commands write."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mrda.core.files import write_text


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A Markdown table, ending in a newline: the first `left` columns aligned left, the others right."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * left}{'---:|' * (len(header) - left)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def markers(section: str) -> tuple[str, str]:
    """The comments before and after a section's content."""
    return f"<!-- {section}:begin -->", f"<!-- {section}:end -->"


def insert(text: str, content: str, section: str) -> str:
    """Replace the text between a section's markers by `content`.

    Raises:
        ValueError: the text does not have each marker once, the first one first.
    """
    begin, end = markers(section)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the file to update must hold one {begin} and, after it, one {end}")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n{content}{end}{after}"


class Page:
    """A file with a section that a command writes; checked at once, so that no work is lost to a wrong name.

    Args:
        path: the file.
        section: the name in its markers.

    Raises:
        OSError: the file can't be read.
        ValueError: it has no such markers, see `insert`.
    """

    def __init__(self, path: Path, section: str) -> None:
        self.path, self.section = path, section
        insert(path.read_text(encoding="utf-8"), "", section)

    def update(self, content: str) -> None:
        """Write the file with another content of the section."""
        write_text(self.path, insert(self.path.read_text(encoding="utf-8"), content, self.section))
