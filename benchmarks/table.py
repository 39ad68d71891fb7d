"""Markdown tables of the benchmarks' results.

To bring a page up to date::

python -m benchmarks.table benchmarks/results/rda_conv_cpu.json --update docs/performance.md
python -m benchmarks.table --gpus benchmarks/results --update docs/performance.md --section speed-gpu
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records import Record, holds_records, load
from benchmarks.tables import document
from mrda.core.files import write_text

SECTION = "speed"
NOT_MEASURED = "On a GPU: not yet measured."
HEADLINES = {"rda_conv2d": ((16, 64, 360, 640), (1, 64, 180, 320)), "model": ((1, 3, 180, 320),)}
"""What of the results on GPUs is shown where all GPUs are: ops and shapes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn records into a Markdown table: print it, or put it into a file."""
    command = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    command.add_argument("file", type=Path, nargs="?", help="records that a benchmark has written")
    command.add_argument(
        "--gpus", type=Path, metavar="FOLDER", help="in place of a file: all results on GPUs in this folder"
    )
    command.add_argument("--update", type=Path, metavar="FILE", help="put it into this file, between its markers")
    command.add_argument(
        "--section",
        default=SECTION,
        metavar="NAME",
        help=f"the markers' name, as in <!-- NAME:begin -->, <!-- NAME:end --> (default: {SECTION})",
    )
    options = command.parse_args(arguments)
    if (options.file is None) == (options.gpus is None):
        command.error("name either one file or, by --gpus, a folder")
    try:
        content = document(load(options.file)) if options.gpus is None else gpus(options.gpus)
        if options.update is None:
            print(content, end="")
            return
        page = Page(options.update, options.section)
    except (OSError, ValueError) as error:  # a JSON error is a ValueError
        command.error(str(error))
    page.update(content)


def gpus(folder: Path) -> str:
    """The headlines of all results on GPUs in a folder, each after its processor's name; ends in a newline.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"--gpus is {folder}, but must be a folder of results")
    results = [load(path) for path in sorted(folder.glob("*.json")) if holds_records(path)]
    shown = [headlines(records) for records in filter(on_gpu, results)]
    return "\n".join(map(titled, filter(None, shown))) or f"{NOT_MEASURED}\n"


def headlines(records: Sequence[Record]) -> list[Record]:
    """The records of those shapes that tell most."""
    return [r for r in records if tuple(r["shape"]) in HEADLINES.get(r["op"], ())]


def titled(records: Sequence[Record]) -> str:
    """A document that begins with what was measured where."""
    what = {"rda_conv2d": "The operator", "model": "The whole network"}.get(records[0]["op"], "RDA blocks")
    return f"{what} on {records[0]['processor']}:\n\n{document(records)}"


def on_gpu(records: Sequence[Record]) -> bool:
    """Whether records are from a GPU."""
    return records[0]["device"] == "cuda"


def markers(section: str) -> tuple[str, str]:
    """The comments that a section's table stands between."""
    return f"<!-- {section}:begin -->", f"<!-- {section}:end -->"


class Page:
    """A file with a section that a command writes.

    Args:
        path: the file.
        section: the name of its markers.

    Raises:
        OSError: it can't be read.
        ValueError: it has no such markers, see `insert`.
    """

    def __init__(self, path: Path, section: str) -> None:
        self.path, self.section = path, section
        self.text = path.read_text(encoding="utf-8")
        insert(self.text, "", section)

    def update(self, content: str) -> None:
        """Write the file with another content of the section."""
        write_text(self.path, insert(self.text, content, self.section))


def insert(text: str, content: str, section: str = SECTION) -> str:
    """Replace what stands between a section's markers in `text` by `content`.

    Raises:
        ValueError: where `text` doesn't have each marker once, the first one first.
    """
    begin, end = markers(section)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the file to update must hold one {begin} and, after it, one {end}")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n{content}{end}{after}"


if __name__ == "__main__":
    main()
