from importlib.metadata import version

import pytest
from commands import run

COMMANDS = ("train", "upscale", "evaluate", "ablate", "info", "convert")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: mrda {command}" in result.stdout


def test_help_lists_the_commands():
    result = run("--help")
    assert all(command in result.stdout for command in COMMANDS)
    assert result.stdout.count("--") == 2  # its own --version and --help


def test_the_version_is_shown():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"mrda {version('mrda-kernels')}\n"


def test_flags_show_no_type():
    for command in (*COMMANDS, "degrade", "export", "app", "data prepare", "data download", "figures compare"):
        help = run(*command.split(), "--help")
        assert help.exit_code == 0
        assert "bool" not in help.stdout
