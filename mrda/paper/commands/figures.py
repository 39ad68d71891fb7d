# SPDX-License-Identifier: Apache-2.0
"""`mrda figures`: the paper's figures, shared parts of the modules figures_*, which hold a command each."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrda.cli.app import Command, add_group
from mrda.cli.common import check_output_file, chosen_weights, refuse, refusing

if TYPE_CHECKING:
    from mrda.photo.images import Source

_log = logging.getLogger(__name__)

figures = add_group(
    "figures", help="Draw the paper's figures; each writes a PNG and, beside it, a CSV with the data behind it."
)

Output = Annotated[
    Path,
    typer.Option(
        "-o", "--output", help="The picture (.png); the data are written to a .csv of the same name.", metavar="PNG"
    ),
]
MaxSize = Annotated[
    int,
    typer.Option(
        "--max-size",
        help="Largest width and height in HR pixels; larger photos are cropped to their centre, which saves memory.",
        metavar="PIXELS",
    ),
]


class SeveralValues(Command):
    """A command whose repeatable options also take several values at once: `--mln A=a B=b`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after each further value has got the option's name before it."""
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spelt: list[str] = []
        option, values = None, 0
        for word in args:
            if word.startswith("-"):
                option, values = (word, 0) if word in repeatable else (None, 0)
            elif option is not None:
                if values:
                    spelt.append(option)
                values += 1
            spelt.append(word)
        return super().parse_args(ctx, spelt)


@contextmanager
def working(remarks: Iterable[str]) -> Iterator[None]:
    """Print the remarks, then turn an error of the work into one sentence and exit code 1."""
    from mrda.upscale.upscaler import is_out_of_memory

    for remark in remarks:
        _log.warning(remark)
    try:
        yield
    except ValueError as error:
        message = str(error)
    except OSError as error:
        message = f"the figure can't be written: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "there is not enough memory for photos of this size: give a smaller --max-size"
    else:
        return
    _log.error(message)
    raise typer.Exit(1)


def check_files(output: Path, photos: Iterable[str | Path], weights: Iterable[Path]) -> "list[Source]":
    """Return the photos; refuse missing ones, weights that are none, and a picture that can't be drawn or written."""
    if output.suffix.lower() != ".png":
        refuse(f"-o must be a .png file, not {output}")
    from mrda.paper.figures.canvas import csv_beside, require_matplotlib
    from mrda.photo.images import find_images

    check_output_file("-o", output)
    check_output_file("the CSV beside -o,", csv_beside(output))
    try:
        require_matplotlib()
    except ModuleNotFoundError as error:
        refuse(str(error))
    with refusing():
        sources = find_images(photos)
    for path in weights:
        chosen_weights(path)
    return sources


def check_photos(sources: "Sequence[Source]", smallest: int, max_size: int, grid: int = 1) -> list[str]:
    """Refuse unusable photos; return a sentence for each that is used in part. `grid`: HR pixels per pixel."""
    from mrda.paper.figures.photos import check_photos

    if max_size < grid * smallest:
        raise ValueError(f"--max-size is {max_size}, but must be at least {grid * smallest}")
    return [
        f"{remark} (--max-size {max_size} HR pixels)"
        for remark in check_photos(sources, smallest=smallest, largest=max_size // grid)
    ]


def say_written(output: Path) -> None:
    """Name the written files on stderr."""
    from mrda.paper.figures.canvas import csv_beside

    typer.echo(f"wrote {output} and {csv_beside(output).name}", err=True)


def one_scale(scales: Iterable[int]) -> int | None:
    """The common scale of the networks; None without networks.

    Raises:
        ValueError: they differ.
    """
    found = set(scales)
    if len(found) > 1:
        raise ValueError(f"the networks have scales {sorted(found)}, but must all have one")
    return found.pop() if found else None


def named_paths(option: str, values: Sequence[str] | None) -> dict[str, Path]:
    """NAME=FILE by name."""
    named: dict[str, Path] = {}
    for value in values or ():
        name, separator, path = value.partition("=")
        if not (name and separator and path):
            raise ValueError(f"{option} is {value!r}, but must be a name and a file, NAME=FILE")
        if name in named:
            raise ValueError(f"{option} {name} is given twice, but names must differ")
        named[name] = Path(path)
    return named


def parse_numbers(option: str, value: str, what: str) -> list[float]:
    """Finite numbers with commas between; `what` they must be, for the message."""
    try:
        numbers = [float(number) for number in value.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{option} is {value!r}, but must be {what}")
    return numbers
