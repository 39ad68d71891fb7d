# SPDX-License-Identifier: Apache-2.0
"""The root of the command line, where the commands register, and their log on stderr."""

import logging
import os
from typing import Any

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


class Command(_PlainParameters, TyperCommand):
    """A command of `mrda`, which ends with a sentence, not a traceback, if the disk is full or fails."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
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


@app.callback()
def show_log() -> None:
    """Show what the packages log, whatever the command."""
    log_to_stderr()
