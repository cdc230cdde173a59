"""Configures logs: readable on a terminal, JSON elsewhere, on standard error unless a command keeps a file of its own.

FEDKEEPER_LOG=text: readable elsewhere too. FEDKEEPER_LOG_LEVEL=debug: all messages, as with `--verbose`.
"""

import contextlib
import io
import logging
import os
import sys
from typing import Any, Protocol, TextIO, cast

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.tracebacks import ExceptionDictTransformer

from broker.support import loggers, texts

log = loggers.get_logger(__name__)


class Writable(Protocol):
    """What a log is written to."""

    def write(self, text: str, /) -> Any:
        """Append a text."""

    def flush(self) -> Any:
        """Hand on what was written."""


_to: Writable | None = None  # standard error, whatever that is at the moment
_is_verbose = False


def configure(*, verbose: bool = False, quiet: bool = False, to: Writable | None = None) -> None:
    """Set up structlog for this process.

    Args:
        verbose: show all messages, including debug.
        quiet: show only warnings and errors, for commands that display their own progress.
        to: takes the log, as text for a person; None: standard error.
    """
    global _to, _is_verbose
    _to, _is_verbose = to, verbose or os.environ.get("FEDKEEPER_LOG_LEVEL") == "debug"
    # At each end of a TLS connection asyncio warns that its own StreamReaderProtocol wants to keep half of it open.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    level = logging.DEBUG if _is_verbose else logging.WARNING if quiet else logging.INFO
    # No local variables in a traceback: they may contain a password, a token, or a client's data.
    traceback: structlog.typing.Processor = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    renderer: structlog.typing.Processor = JSONRenderer()
    stamp = TimeStamper(fmt="iso", utc=True)
    if is_text():
        # As the screens show times: those of this machine's clock.
        stamp = TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
        traceback = _keep_exception
        renderer = ConsoleRenderer(colors=to is None, exception_formatter=_format_exception)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            stamp,
            traceback,
            clean,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", to) if to else sys.stderr),
        cache_logger_on_first_use=False,
    )


def is_verbose() -> bool:
    """Whether the log shows all messages; then the processes that this one starts shall show theirs."""
    return _is_verbose


def is_text() -> bool:
    """Whether the log is text for a person, and not JSON."""
    return _to is not None or sys.stderr.isatty() or os.environ.get("FEDKEEPER_LOG") == "text"


def copy(chunk: bytes) -> None:
    """Append what a child process has logged. A log that nobody reads any more is no error.

    In a program that shows no logs, it is logged.
    """
    if not loggers.are_shown():
        log.info("a child process has logged", text=chunk.decode(errors="backslashreplace"))
        return
    with contextlib.suppress(OSError):
        if _to is None:
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
        else:
            _to.write(chunk.decode(errors="backslashreplace"))


def clean(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Shorten the texts of a log line, and show their control characters: strangers write some of these texts."""
    for name, value in event.items():
        if isinstance(value, str) and name != "exception":
            event[name] = texts.cleaned(texts.shortened(value), keep="")
    return event


def _format_exception(to: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Write a traceback, whose message may be a stranger's text, as `clean` does."""
    text = io.StringIO()
    plain_traceback(text, exc_info)
    to.write(texts.cleaned(text.getvalue()))


def _keep_exception(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave the exception in the event, because ConsoleRenderer formats it itself."""
    return event
