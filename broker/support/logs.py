"""Configures logs: readable on a terminal, JSON elsewhere, always on standard error.

FEDKEEPER_LOG=text: readable elsewhere too.
"""

import io
import logging
import os
import sys
from typing import TextIO

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer
from structlog.tracebacks import ExceptionDictTransformer

from broker.support import texts


def configure(*, verbose: bool = False, quiet: bool = False) -> None:
    """Set up structlog for this process.

    Args:
        verbose: show all messages, including debug.
        quiet: show only warnings and errors, for commands that display their own progress.
    """
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    # No local variables in a traceback: they may contain a password, a token, or a client's data.
    traceback: structlog.typing.Processor = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    renderer: structlog.typing.Processor = JSONRenderer()
    if sys.stderr.isatty() or os.environ.get("FEDKEEPER_LOG") == "text":
        traceback = _keep_exception
        renderer = ConsoleRenderer(exception_formatter=_format_exception)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            traceback,
            clean,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


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
