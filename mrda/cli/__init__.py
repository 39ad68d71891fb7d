"""The command `mrda`, one module per subcommand.

Exit codes: 0 all done; 1 at least one photo failed, the others are done; 2 wrong usage, configuration or
weights, said before any work; 130 interrupted.

Whatever imports torch is imported inside the commands, so that help appears at once.
"""

from mrda.cli import (
    ablate,
    convert,
    data,
    degrade,
    evaluate,
    export,
    figures_pictures,
    figures_tsne,
    info,
    page,
    train,
    upscale,
)
from mrda.cli.app import app
from mrda.memory import keep_freed_memory

__all__ = [
    "ablate",
    "app",
    "convert",
    "data",
    "degrade",
    "evaluate",
    "export",
    "figures_pictures",
    "figures_tsne",
    "info",
    "main",
    "page",
    "train",
    "upscale",
]


def main() -> None:
    """Run the command line; the process ends with one of the exit codes above."""
    keep_freed_memory()
    app()
