"""Publishes progress events in order, and does not make a round wait for each of them."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import structlog

from broker.base import Broker
from broker.messages import progress
from broker.messages.progress import Event, Progress
from broker.support.tasks import task_group
from server.room import until_there_is_room

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Announcement:
    progress: Progress
    published: asyncio.Event = field(default_factory=asyncio.Event)


class Announcer:
    """A queue of progress events. `open_announcer` publishes them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._queue: asyncio.Queue[_Announcement | None] = asyncio.Queue()

    def announce(self, job: str, event: Event, *key: object) -> None:
        """Queue an event of a job.

        Args:
            job: the job's id.
            event: the event.
            key: tells the event from others of its kind (a round, a client, an attempt). The event's id is made from
                it, so an event that is announced again after a crash has the same id.
        """
        self._put(job, event, key)

    async def announce_and_wait(self, job: str, event: Event, *key: object) -> None:
        """Queue an event of a job, and return when the broker has it.

        Args:
            job: the job's id.
            event: the event.
            key: as for `announce`.
        """
        await self._put(job, event, key).published.wait()

    def _put(self, job: str, event: Event, key: tuple[object, ...]) -> _Announcement:
        event_id = ".".join((job, event.what, *map(str, key)))
        announcement = _Announcement(Progress(job, event, self._clock(), event_id))
        self._queue.put_nowait(announcement)
        return announcement

    async def _publish(self, broker: Broker) -> None:
        """Publish the queue until its end, which is None."""
        while (announcement := await self._queue.get()) is not None:
            event = announcement.progress
            log.debug(event.event.what, job=event.job, id=event.id)
            await until_there_is_room(functools.partial(_publish, broker, event))
            announcement.published.set()


async def _publish(broker: Broker, event: Progress) -> None:
    await broker.publish(progress.topic_of(event.job, event.event), progress.encode(event), dedupe=event.id)


@contextlib.asynccontextmanager
async def open_announcer(broker: Broker, clock: Callable[[], float] = time.time) -> AsyncIterator[Announcer]:
    """Open an announcer; leaving the context waits until every queued event is published.

    Args:
        broker: takes the events.
        clock: seconds since the epoch.
    """
    announcer = Announcer(clock)
    async with task_group() as group:
        group.create_task(announcer._publish(broker), name="announcer.publish")
        yield announcer
        announcer._queue.put_nowait(None)
