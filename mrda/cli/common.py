"""What the commands share: refusals in one sentence, progress bars, tables, the option for weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress

from mrda.core.progress import progress_bar

NO_WEIGHTS = "no weights: name some with -w WEIGHTS, such as mrda-x4-iso, which come with the package"

Weights = Annotated[
    Path | None,
    typer.Option(
        "-w",
        "--weights",
        help="A network's weights: .safetensors, the authors' .pth, a folder, the name of weights of the package, "
        "or user/repository on the Hugging Face Hub.",
    ),
]


def refuse(message: str) -> NoReturn:
    """End with exit code 2: wrong usage, configuration or weights, said before any work."""
    typer.echo(f"mrda: {message}", err=True)
    raise typer.Exit(2)


def chosen_weights(weights: Path | None) -> Path:
    """The weights that were asked for, else the default of the package."""
    from mrda.upscale.weights import default_weights

    return Path(default_weights()) if weights is None else weights


@contextmanager
def refusing() -> Iterator[None]:
    """Before any work: a ValueError is the user's to mend, and needs no traceback."""
    try:
        yield
    except ValueError as error:
        refuse(str(error))


def check_folder(data: Path) -> None:
    """Raise ValueError unless `--data` names a folder."""
    if not os.path.isdir(data):
        raise ValueError(f"--data must be a folder of photos, not {data}")


def check_output_file(option: str, path: Path | None) -> None:
    """Refuse a file that results could not be written to when they are there; None is no file."""
    from mrda.core.files import check_writable

    if path is None:
        return
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        refuse(f"{option} must be a file in an existing folder, not {path}")
    try:
        check_writable(path)
    except OSError as error:
        refuse(f"{option} {path} can't be written: {error.strerror}")


@contextmanager
def progress(description: str, total: float) -> Iterator[Progress]:
    """A bar with one task on the terminal's stderr, with the time that remains."""
    with progress_bar(Console(stderr=True)) as bar:
        bar.add_task(description, total=total)
        yield bar


def report(bar: Progress, message: str) -> None:
    """One failure, one line on stderr, above the bar where there is one."""
    bar.console.print(f"mrda: {message}", markup=False, highlight=False, soft_wrap=True)


def print_table(markdown: str) -> None:
    """A table for the eye on a terminal, as Markdown anywhere else."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        typer.echo(markdown, nl=False)
