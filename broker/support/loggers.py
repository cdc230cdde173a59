"""Loggers. A program that uses our packages as a library decides what becomes of their lines.

Where structlog is configured, as our own commands do (`broker.support.logs`), the lines go there. Elsewhere they go to
the loggers of `logging` below `fedkeeper`, which print nothing unless the program adds a handler, as the guide for
libraries says (https://docs.python.org/3/howto/logging.html#configuring-logging-for-a-library).
"""

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from structlog.typing import EventDict

ROOT: Final = "fedkeeper"

logging.getLogger(ROOT).addHandler(logging.NullHandler())


class Logger:
    """A structlog logger that decides at each call where its lines go. Made by `get_logger`."""

    def __init__(self, name: str, **context: Any) -> None:
        self._name = name
        self._context = context

    def bind(self, **context: Any) -> "Logger":
        """Return a logger that adds these values to each line."""
        return Logger(self._name, **{**self._context, **context})

    def __getattr__(self, method: str) -> Any:
        """Return a method of the logger that is in force now, such as `info`."""
        return getattr(_current(self._name).bind(**self._context), method)


def get_logger(name: str) -> Any:
    """Return the logger of a module; typed as structlog types its own.

    Args:
        name: the module's `__name__`.
    """
    return Logger(name)


def are_shown() -> bool:
    """Whether this program itself shows what is logged, as our commands do."""
    # Imported here because functions, at every cold start, would pay for it.
    import structlog

    return structlog.is_configured()


def _current(name: str) -> Any:
    import structlog

    if are_shown():
        return structlog.get_logger(name)
    logger = logging.getLogger(name if name.partition(".")[0] == ROOT else f"{ROOT}.{name}")
    return structlog.wrap_logger(
        logger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _as_text,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _as_text(_: object, __: str, event: "EventDict") -> str:
    """Return a line as `what happened key='value'`. Strangers write some of the values."""
    from broker.support import texts

    what, exception = event.pop("event"), event.pop("exception", "")
    words = [str(what), *(f"{name}={texts.shortened(repr(value))}" for name, value in event.items())]
    return texts.cleaned("\n".join(filter(None, (" ".join(words), exception))))
