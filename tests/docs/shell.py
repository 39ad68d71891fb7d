"""Run the lines of a block of shell commands, or only check that their options exist."""

import contextlib
import io
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import typer
from blocks import REPOSITORY
from typer.testing import CliRunner

from mrda.cli import app

OTHERS = ("ffmpeg", "magick")  # in pipes with ours
ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)


def lines(text):
    """The commands as lists of words, without comments; a backslash continues a line."""
    return [words for line in text.replace("\\\n", " ").splitlines() if (words := shlex.split(line, comments=True))]


def run(words, monkeypatch):
    """Run a command; only its options are looked at where that can't be done here."""
    while assignment := ASSIGNMENT.fullmatch(words[0]):
        monkeypatch.setenv(*assignment.groups())
        words = words[1:]
    if {"<", ">"} & set(words) and "|" not in words:
        run_redirected(words)
    elif "|" in words or not _dispatched(words, run_mrda, run_python):
        check(words)


def _dispatched(words, mrda, python):
    """Hand the arguments of `mrda` and `python` on; False for other commands."""
    name, *arguments = words
    if name == "mrda":
        mrda(arguments)
    elif name in ("torchrun", "accelerate"):
        mrda(after_launcher(name, arguments))
    elif name == "python":
        python(arguments)
    else:
        return False
    return True


def check(words):
    """See that a command, or each of a pipe, exists and takes these options."""
    if "|" in words:
        first = words.index("|")
        check(words[:first])
        return check(words[first + 1 :])
    if "<" in words or ">" in words:
        return check(without_files(words)[0])
    name, *arguments = words
    if _dispatched(words, check_mrda, check_python):
        return
    if name == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in arguments if not ASSIGNMENT.fullmatch(word)} <= set(targets)
    elif words[:2] == ["pip", "install"]:
        for word in words[2:]:
            folder, wanted = re.fullmatch(r"(\.|\./mrda)(?:\[([\w,]+)\])?", word).groups()
            project = tomllib.loads((REPOSITORY / folder / "pyproject.toml").read_text())["project"]
            assert set(wanted.split(",") if wanted else ()) <= set(project["optional-dependencies"])
    elif name == "tensorboard":
        from tensorboard.program import TensorBoard

        TensorBoard().configure(argv=words)
    else:
        known = name == "cd" or words[:2] == ["git", "clone"] or words == [".", ".venv/bin/activate"] or name in OTHERS
        assert known, f"the tests do not know the command {shlex.join(words)}"


def run_mrda(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{shlex.join(['mrda', *arguments])}\n{result.output}\n{result.exception!r}"


def run_redirected(words):
    (name, *arguments), files = without_files(words)
    assert name == "mrda"
    result = CliRunner().invoke(app, arguments, input=Path(files["<"]).read_bytes() if "<" in files else None)
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.stderr}\n{result.exception!r}"
    Path(files[">"]).write_bytes(result.stdout_bytes)


def without_files(words):
    """The words without redirections, and the files of these."""
    places = [place for place, word in enumerate(words) if word in ("<", ">")]
    kept = [word for place, word in enumerate(words) if not {place, place - 1} & set(places)]
    return kept, {words[place]: words[place + 1] for place in places}


def check_mrda(arguments):
    if arguments[0] == "train" and "--list" not in arguments:
        return run_mrda([*arguments, "--dry-run"])  # which looks at --config and --set, too
    command, rest = subcommand(arguments)
    with command.make_context("mrda", rest):  # raises for an option that is not there
        pass


def subcommand(arguments):
    """The command that words begin with, and the words after its name."""
    command, rest = typer.main.get_command(app), list(arguments)
    while rest and hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    return command, rest


def after_launcher(name, arguments):
    """The arguments of mrda, behind those of what starts it on several processes, which are parsed."""
    if name == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(arguments)
    else:
        from accelerate.commands.launch import launch_command_parser

        assert arguments[0] == "launch"
        options = launch_command_parser().parse_args(arguments[1:])
    assert options.module
    assert options.training_script == "mrda"
    return options.training_script_args


def run_python(arguments):
    with _argv(arguments) as run_it:
        run_it()


def check_python(arguments):
    module = arguments[:2] if arguments[0] == "-m" else arguments[:1]
    screen = io.StringIO()
    with _argv([*module, "--help"]) as run_it, contextlib.redirect_stdout(screen), contextlib.suppress(SystemExit):
        run_it()
    shown = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", screen.getvalue()))
    assert {word.split("=")[0] for word in arguments[len(module) :] if word.startswith("-")} <= shown


@contextlib.contextmanager
def _argv(arguments):
    """A module (-m NAME) or one of our scripts, to be run in this process."""
    kept, path = sys.argv, list(sys.path)
    module = arguments[0] == "-m"
    sys.argv = arguments[module:]
    try:
        if module:
            yield lambda: runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            yield lambda: runpy.run_path(str(REPOSITORY / arguments[0]), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = kept, path
