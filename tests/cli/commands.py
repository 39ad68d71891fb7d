"""How the tests run commands."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from mrda.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*arguments, env=os.environ, **options):
    """The command in a process of its own, as a person would run it."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), env.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "mrda", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**env, "PYTHONPATH": path},
        **options,
    )


def one_sentence(text):
    return text.startswith("mrda: ") and text.count("\n") == 1 and "Traceback" not in text


def refused(result, out, *words):
    assert result.exit_code == 2
    assert one_sentence(result.stderr), result.stderr
    for word in words:
        assert word in result.stderr
    assert not out.exists()
