"""Logs: pretty on a terminal, JSON elsewhere, always on standard error."""

import logging
import sys

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer
from structlog.tracebacks import ExceptionDictTransformer


def configure(*, verbose: bool = False, quiet: bool = False) -> None:
    """Set up structlog for this process.

    Args:
        verbose: everything, down to debug.
        quiet: warnings and errors only; for commands that show something better.
    """
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    # A traceback shows no variables: they may hold a password, a token, or a client's data.
    traceback: structlog.typing.Processor = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    last: structlog.typing.Processor = JSONRenderer()
    if sys.stderr.isatty():
        traceback = _as_it_is
        last = ConsoleRenderer(exception_formatter=plain_traceback)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            traceback,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _as_it_is(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event
