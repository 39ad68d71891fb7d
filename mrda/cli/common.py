# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the commands: refusals in one sentence, progress bars, tables, common options."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markdown import Markdown

from mrda.cli.app import option_of
from mrda.core.faults import reason
from mrda.core.progress import Task, TerminalProgress

_log = logging.getLogger(__name__)

NO_WEIGHTS = "no weights: give some with -w WEIGHTS, such as -w mrda-x4, which comes with the package"

Weights = Annotated[
    Path | None,
    typer.Option(
        "-w",
        "--weights",
        metavar="WEIGHTS",
        help="A .safetensors file, the authors' .pth, a folder, a name such as mrda-x4, or "
        "user/repository on the Hugging Face Hub.",
    ),
]


Strength = Annotated[
    float | None,
    typer.Option(
        "--strength",
        help="Place between weights and their partner: 0 for clean photos, 1 for degraded ones (default: the weights "
        "themselves).",
        metavar="0..1",
    ),
]
OutputFolder = Annotated[Path, typer.Option("-o", "--output", help="Output folder; created if missing.", metavar="DIR")]
DType = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option("--dtype", help="Precision; auto is bf16 if the processor supports it natively, otherwise fp32."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Device, such as cpu or cuda:1 (default: a GPU if there is one).", metavar="NAME"),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset", help="recommended, paper, official, or a preset that the configuration defines.", metavar="NAME"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set one option; may be repeated.", metavar="KEY=VALUE"),
]


def refuse(message: str) -> NoReturn:
    """End with exit code 2 and a message: wrong usage, configuration or weights, found before any work.

    If it begins with an argument of a function that is an option here, it gets the option's dashes: `--overlap is 500`.
    """
    name, _, rest = message.partition(" ")
    option = option_of(name) if rest.startswith(("is ", "are ", "must ")) else None
    _log.error(message if option is None else f"{option} {rest}")
    raise typer.Exit(2)


def chosen_weights(weights: Path | None) -> Path:
    """Return the weights that were asked for, or the package's default; refuse what is missing or no weights."""
    from mrda.core.weights_files import kind_of_weights
    from mrda.upscale.weights import default_weights, find_weights

    if weights is None:
        return Path(default_weights())
    with refusing():  # before torch is imported, which takes seconds
        kind_of_weights(find_weights(weights))
    return weights


def check_strength(weights: Path | None, strength: float | None) -> None:
    """Refuse a strength that is not from 0 to 1, or for weights without a partner; None is the choice by the photo."""
    from mrda.upscale import strength as strengths

    if strength is None:
        return
    with refusing():
        if weights is not None:
            strengths.check_strength(weights, strength)
            return
        such = " or ".join(strengths.PARTNERS)
        which = f"name them, such as -w {such}" if such else "leave it out, as no weights of the package have one yet"
        refuse(f"--strength is for weights with a partner, and without -w the weights depend on the photo: {which}")


@contextmanager
def refusing() -> Iterator[None]:
    """Report a ValueError as a one-line usage error (exit code 2), without a traceback."""
    try:
        yield
    except ValueError as error:
        refuse(str(error))


def check_training() -> None:
    """Refuse to train without the packages of the extra `train`."""
    from mrda.core.packages import require_training

    try:
        require_training()
    except ModuleNotFoundError as error:
        refuse(str(error))


def check_folder(data: Path) -> None:
    """Raise ValueError unless `--data` names a folder."""
    if not os.path.isdir(data):
        raise ValueError(f"--data must be a folder of photos, not {data}")


def check_output_file(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written later, when the results are there; None is no file."""
    from mrda.core.files import check_writable

    if path is None:
        return
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        refuse(f"{option} must be a file in an existing folder, not {path}")
    try:
        check_writable(path)
    except OSError as error:
        refuse(f"{option} {path} can't be written: {reason(error)}")


def save_outputs(writers: Mapping[str, tuple[Path | None, Callable[[Path], None]]]) -> bool:
    """Write the files that options name, each as far as its disk allows, after the results have been printed.

    Args:
        writers: by option, its file (None is no file) and the function that writes it.

    Returns:
        True if all were written; the reason why one was not is logged.
    """
    complete = True
    for option, (path, write) in writers.items():
        if path is None:
            continue
        try:
            write(path)
        except OSError as error:
            complete = False
            _log.error("%s %s can't be written: %s; the table above is complete", option, path, reason(error))
    return complete


def progress(description: str, total: float) -> AbstractContextManager[Task]:
    """Show a task on stderr, with the time that remains, while the context is open."""
    return TerminalProgress().task(description, total)


def print_table(markdown: str) -> None:
    """Print a table: drawn on a terminal, as Markdown otherwise."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        typer.echo(markdown, nl=False)
