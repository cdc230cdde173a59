"""Logs contain the error but no values of variables."""

import logging
import re
import sys
from collections.abc import Iterator

import pytest
import structlog

from broker.support import logs

HIDDEN = "hunter2"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def fails() -> None:
    password = HIDDEN
    raise ConnectionError(f"a password of {len(password)} characters is refused")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_traceback_shows_no_variables(
    *, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logs.configure()
    try:
        fails()
    except ConnectionError:
        structlog.get_logger().exception("no connection", user="u")
    written = capsys.readouterr().err
    for shown in ("no connection", "ConnectionError", "a password of 7 characters", "fails"):
        assert shown in written
    assert HIDDEN not in written


@pytest.mark.parametrize("terminal", [False, True])
def test_foreign_text_in_a_log_is_shown_and_shortened(
    *, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure()
    error = ConnectionError("\x1b[2J\x9b")
    structlog.get_logger().error("refused", reason="\x1b]0;t\x07\nforged " + "x" * 900_000, exc_info=error)
    written = capsys.readouterr().err
    assert "u001b]0;t" in written
    assert "u000aforged" in written
    for control in "\x1b[2J", "\x1b]", "\x07", "\x9b":
        assert control not in written
    assert len(written) < 8000


@pytest.mark.parametrize(("value", "begins"), [("text", "20"), ("", "{")])
def test_a_log_that_goes_through_a_pipe_to_a_terminal_is_readable(
    value: str, begins: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDKEEPER_LOG", value)
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure()
    structlog.get_logger().info("ready")
    assert capsys.readouterr().err.replace("\x1b[2m", "").startswith(begins)


def test_times_for_a_person_are_to_the_second_and_aligned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure()
    structlog.get_logger().info("ready")
    structlog.get_logger().warning("the broker is out of reach")
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in capsys.readouterr().err.splitlines()]
    found = [re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[(info|warning) *\] ", line) for line in lines]
    assert len({match and match.end() for match in found}) == 1, lines
    assert found[0] is not None, lines


def test_times_for_a_program_are_exact_and_name_their_zone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDKEEPER_LOG", raising=False)
    logs.configure()
    structlog.get_logger().info("ready")
    assert re.search(r'"timestamp": "[0-9T:.-]{19,26}Z"', capsys.readouterr().err)


def test_asyncio_s_warning_at_the_end_of_a_tls_connection_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio_log = logging.getLogger("asyncio")
    before = asyncio_log.level
    try:
        logs.configure()
        asyncio_log.warning("returning true from eof_received() has no effect when using ssl")
        assert capsys.readouterr().err == ""
        assert asyncio_log.isEnabledFor(logging.ERROR)
    finally:
        asyncio_log.setLevel(before)


def test_all_messages_are_shown_if_the_command_or_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDKEEPER_LOG_LEVEL", raising=False)
    shown = []
    for level, verbose in (("", False), ("", True), ("debug", False)):
        monkeypatch.setenv("FEDKEEPER_LOG_LEVEL", level)
        logs.configure(verbose=verbose, quiet=True)
        structlog.get_logger().debug("a detail")
        shown.append(("a detail" in capsys.readouterr().err, logs.is_verbose()))
    assert shown == [(False, False), (True, True), (True, True)]
    monkeypatch.undo()
    logs.configure()
