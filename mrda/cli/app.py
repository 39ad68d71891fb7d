# SPDX-License-Identifier: Apache-2.0
"""The root of the command line, where the commands register, and their log on stderr."""

import importlib.metadata
import logging
import os
from contextvars import ContextVar
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mrda.core.faults import is_storage_fault, reason
from mrda.core.progress import log_to_stderr

_log = logging.getLogger(__name__)


class _PlainParameters:
    """Shows flags and arguments in the help without a type."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters; flags have no metavar, arguments no type beside their metavar."""
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
            elif param.param_type_name == "argument":
                param.display_type_rich = _no_type
        return params


def _no_type(ctx: Any) -> None:
    """Return no type, in place of an argument's."""


_running: ContextVar["TyperCommand | None"] = ContextVar("running", default=None)


def option_of(argument: str) -> str | None:
    """Return the option by which the running command takes an argument, such as --overlap; None if there is none."""
    command = _running.get()
    for param in [] if command is None else command.params:
        if param.name == argument:
            return next((option for option in param.opts if option.startswith("--")), None)
    return None


class Command(_PlainParameters, TyperCommand):
    """A command of `mrda`, which ends with a sentence, not a traceback, if the disk is full or fails."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        _running.set(self)
        try:
            return super().invoke(ctx)
        except OSError as error:
            if not is_storage_fault(error):
                raise
            where = "the output" if error.filename is None else os.fsdecode(error.filename)
            _log.error("cannot write %s: %s; files that were finished before are kept", where, reason(error))
            raise typer.Exit(1) from None


class Group(_PlainParameters, TyperGroup):
    """A group of commands."""


class Commands(typer.Typer):
    """Registers functions as commands."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] = Command, **options: Any) -> Any:  # type: ignore[override]
        """Register a function, see `typer.Typer.command`."""
        return super().command(name, cls=cls, **options)


app = Commands(
    cls=Group,
    help="MRDA: blind image super-resolution by meta-learned degradation representations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def add_group(name: str, *, help: str, short_help: str | None = None) -> Commands:
    """Register a group of commands, `mrda NAME COMMAND`."""
    commands = Commands(cls=Group, help=help, no_args_is_help=True)
    app.add_typer(commands, name=name, short_help=short_help)
    return commands


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mrda {importlib.metadata.version('mrda-kernels')}")
        raise typer.Exit


@app.callback()
def show_log(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Show what the packages log, whatever the command."""
    log_to_stderr()
