"""Bars by one protocol, and the log on stderr."""

import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from mrda.core.progress import NoProgress, Progress, TerminalProgress, log_to_stderr, track


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("mrda")
    before = logger.handlers[:], logger.level
    logger.handlers = []
    yield logger
    logger.handlers, logger.level = before


def test_nested_tasks_are_drawn_and_vanish() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress = TerminalProgress(console)
    for _ in range(2):  # it can be used again
        with progress.task("photos", 2) as photos, progress.task("tiles", 8) as tiles:
            tiles.advance(4)
            photos.advance(note="first")
            assert [(task.description, task.completed) for task in progress._bars.tasks] == [
                ("photos", 1),
                ("tiles", 4),
            ]
        assert progress._bars.tasks == []
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "photos" in drawn
    assert "first" in drawn


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO())
    with TerminalProgress(console).task("photos", 2) as task:
        task.advance()
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("progress", [NoProgress(), TerminalProgress(Console(file=io.StringIO(), force_terminal=True))])
def test_tracked_items_pass_unchanged(progress: Progress) -> None:
    assert list(track("abc", 3, "letters", progress)) == ["a", "b", "c"]


def test_the_log_goes_to_the_stderr_of_the_moment_and_only_once(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    log_to_stderr()
    logging.getLogger("mrda.training").info("saved")
    assert capsys.readouterr().err == "mrda: saved\n"
    log_to_stderr(logging.WARNING)
    logging.getLogger("mrda.training").info("silent")
    assert capsys.readouterr().err == ""
