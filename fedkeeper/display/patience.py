"""Shows that a job waits for clients only if that lasts: in a system that has just started, it is over in a moment."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from broker.messages.progress import JobWaiting, Progress

WAIT_S: Final = 3.0
"""A job that waits longer than this is said to wait. Seconds."""


class Timer(Protocol):
    """What a delayed call is cancelled with, as asyncio has it."""

    def cancel(self) -> None:
        """Do not make the call."""


Later = Callable[[float, Callable[[], object]], Timer]
"""Makes a call after so many seconds, as `call_later` of asyncio's loop."""


class Patience:
    """Takes a job's events, and shows each at once but for a wait, which the next event makes needless.

    Args:
        show: shows an event.
        later: makes a call later; None: the running loop.
    """

    def __init__(self, show: Callable[[Progress], object], later: Later | None = None) -> None:
        self._show = show
        self._later = asyncio.get_running_loop().call_later if later is None else later
        self._waiting: Timer | None = None

    def take(self, progress: Progress) -> None:
        """Show an event, now or later."""
        self.close()
        if isinstance(progress.event, JobWaiting):
            self._waiting = self._later(WAIT_S, lambda: self._show(progress))
        else:
            self._show(progress)

    def close(self) -> None:
        """Forget a wait that was not shown yet."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
