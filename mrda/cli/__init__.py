# SPDX-License-Identifier: Apache-2.0
"""The command `mrda`, one module per subcommand; other packages add theirs by entry points of `mrda.commands`.

Exit codes: 0 all done; 1 at least one photo failed, the others are done; 2 wrong usage, configuration or
weights, said before any work; 130 interrupted; 141 the program that reads standard output has ended.

Whatever imports torch is imported inside the commands, so that help appears at once.
"""

from importlib.metadata import entry_points

from mrda.cli import config, convert, data, degrade, evaluate, export, frames, info, page, train, upscale
from mrda.cli.app import app
from mrda.core.memory import keep_freed_memory

__all__ = [
    "app",
    "config",
    "convert",
    "data",
    "degrade",
    "evaluate",
    "export",
    "frames",
    "info",
    "main",
    "page",
    "train",
    "upscale",
]

for _entry_point in entry_points(group="mrda.commands"):
    _entry_point.load()


def main() -> None:
    """Run the command line; the process ends with one of the exit codes above."""
    keep_freed_memory()
    app()
