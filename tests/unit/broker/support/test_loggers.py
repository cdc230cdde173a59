"""A program that uses our packages as a library decides what becomes of their log lines."""

import logging
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from broker.support import loggers

HIDDEN = "hunter2"


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    before, was = structlog.get_config(), structlog.is_configured()
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if was:
        structlog.configure(**before)


def fail() -> None:
    password = HIDDEN
    raise ConnectionError(f"refused after {len(password)} characters")


def test_nothing_is_printed_where_nobody_asked_for_logs(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own: with one, `logging` prints nothing itself
    log = loggers.get_logger("broker.nats.connection")
    log.debug("nats complains", error="refused")
    log.warning("nats complains", error="refused")
    try:
        fail()
    except ConnectionError:
        log.exception("no connection")
    assert capfd.readouterr() == ("", "")
    assert not structlog.is_configured(), "the program's own structlog stays as it is"


def test_a_program_that_uses_logging_gets_our_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=loggers.ROOT)
    log = loggers.get_logger("server.jobs").bind(job="mine-1")
    log.debug("not wanted")
    log.info("job accepted", name="a\x1b[2Jb", clients=3)
    loggers.get_logger("fedkeeper.sdk").warning("passed over")
    lines = [(line.name, line.levelname, line.getMessage()) for line in caplog.records]
    assert lines == [
        ("fedkeeper.server.jobs", "INFO", r"job accepted job='mine-1' name='a\x1b[2Jb' clients=3"),
        ("fedkeeper.sdk", "WARNING", "passed over"),
    ]


def test_a_traceback_has_no_values_of_variables(caplog: pytest.LogCaptureFixture) -> None:
    try:
        fail()
    except ConnectionError:
        loggers.get_logger("broker").exception("no connection")
    (line,) = caplog.messages
    assert line.splitlines()[0] == "no connection"
    assert line.endswith("ConnectionError: refused after 7 characters")
    assert HIDDEN not in line


def test_a_program_that_configures_structlog_gets_our_lines_there() -> None:
    log = loggers.get_logger("server.jobs").bind(job="mine-1")
    with capture_logs() as lines:
        log.info("job accepted", clients=3)
    assert lines == [{"event": "job accepted", "log_level": "info", "job": "mine-1", "clients": 3}]
