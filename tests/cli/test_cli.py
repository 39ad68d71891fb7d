from pathlib import Path

import pytest
from commands import run

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = ("train", "upscale", "evaluate", "info")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: mrda {command}" in result.stdout


def test_help_lists_the_commands():
    result = run("--help")
    assert all(command in result.stdout for command in COMMANDS)
