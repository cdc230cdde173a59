"""Pauses a job that finds no room on the broker or on the server's disk.

It hears a cancellation meanwhile, and fails after a day.
"""

import asyncio
import enum
from collections.abc import Callable
from typing import Final

from broker import topics
from broker.base import Broker
from broker.errors import StorageFull
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobPaused
from broker.support import loggers
from server import room
from server.announcer import Announcer
from server.errors import NoRoomForUpdates

log = loggers.get_logger(__name__)

PAUSED_MOST_S: Final = 86_400.0
"""A job that finds no room for so long fails. Seconds."""


class Outcome(enum.Enum):
    """How a pause has ended."""

    AGAIN = "try again"
    CANCELLED = "a person has cancelled the job"
    TOO_LONG = "there was no room for too long"


class Pauses:
    """The pauses of one job, each from the first write without room until the job has got on.

    Args:
        broker: has no room, and the requests to cancel the job.
        announcer: takes one event for each pause.
        clock: seconds since the epoch.
    """

    def __init__(self, broker: Broker, announcer: Announcer, clock: Callable[[], float]) -> None:
        self._broker = broker
        self._announcer = announcer
        self._clock = clock
        self._where: tuple[str, int, int | None] | None = None
        self._since_s = 0.0
        self._tries = 0

    async def wait(self, record: JobRecord, error: StorageFull | NoRoomForUpdates) -> Outcome:
        """Wait before the job is tried again, or until a person cancels it.

        Args:
            record: the job's record, which tells a pause from the next one.
            error: what the job has no room for.
        """
        now_s, where = self._clock(), (record.phase, record.round, record.closed)
        remedy = remedy_of(error)
        if where != self._where:
            self._where, self._since_s, self._tries = where, now_s, 0
            reason = f"{error}; the job goes on when there is room: {remedy}"
            event = JobPaused(reason=reason, until_s=now_s + PAUSED_MOST_S)
            self._announcer.announce(record.id, event, record.round, int(now_s))
        if now_s >= self._since_s + PAUSED_MOST_S:
            return Outcome.TOO_LONG
        log.warning("no room; the job is paused", job=record.id, error=str(error), remedy=remedy)
        self._tries += 1
        try:
            async with asyncio.timeout(room.delay_s(self._tries - 1)):
                async with self._broker.subscribe(topics.cancellation(record.id), start="first") as requests:
                    await anext(requests)
        except TimeoutError:
            return Outcome.AGAIN
        return Outcome.CANCELLED


def remedy_of(error: StorageFull | NoRoomForUpdates) -> str:
    """Return how a person makes room."""
    return room.REMEDY if isinstance(error, StorageFull) else f"delete files in {error.folder}, or set TMPDIR"
