"""Bars by one protocol, and the log on stderr."""

import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from mrda.core.durations import in_words
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


def test_a_line_now_and_then_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    console, times = Console(file=io.StringIO()), iter([0.0, 10.0, 30.0, 50.0, 240.0])
    with (
        caplog.at_level(logging.INFO, "mrda"),
        TerminalProgress(console, clock=lambda: next(times)).task("photos", 2) as task,
    ):
        for _ in range(4):
            task.advance(0.25)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert [record.getMessage() for record in caplog.records] == [
        "photos: 25 % done, about 90 seconds left",
        "photos: 50 % done, about 4 minutes left",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 seconds"),
        (1.2, "1 second"),
        (99, "99 seconds"),
        (100, "2 minutes"),
        (5900, "98 minutes"),
        (9000, "2.5 hours"),
        (36000, "10 hours"),
        (803 * 86400, "803 days"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


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
