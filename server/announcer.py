"""Tells the world what happens: progress events, in order, without making a round wait for each."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import structlog

from broker.base import Broker
from broker.messages import progress
from broker.messages.progress import Event, Progress
from broker.support.tasks import task_group

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Announcement:
    progress: Progress
    published: asyncio.Event = field(default_factory=asyncio.Event)


class Announcer:
    """Use it as `async with announcing(broker) as announcer`; leaving it waits until all is said."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._queue: asyncio.Queue[_Announcement | None] = asyncio.Queue()

    def announce(self, job: str, event: Event, *about: object) -> None:
        """Announce an event of a job.

        Args:
            job: its id.
            event: what happened.
            about: what tells it from others of its kind (a round, a client, an attempt); said again after a crash, it
                has the same id.
        """
        self._queue.put_nowait(_Announcement(self._progress(job, event, about)))

    async def announce_and_wait(self, job: str, event: Event, *about: object) -> None:
        """Announce an event as `say` does, and return when the broker has it."""
        one = _Announcement(self._progress(job, event, about))
        self._queue.put_nowait(one)
        await one.published.wait()

    def _progress(self, job: str, event: Event, about: tuple[object, ...]) -> Progress:
        return Progress(job, event, self._clock(), ".".join((job, event.what, *map(str, about))))

    async def _publish(self, broker: Broker) -> None:
        while (one := await self._queue.get()) is not None:
            event = one.progress
            log.debug(event.event.what, job=event.job, id=event.id)
            await broker.publish(progress.topic_of(event.job, event.event), progress.encode(event), dedupe=event.id)
            one.published.set()

    def _end(self) -> None:
        self._queue.put_nowait(None)


@contextlib.asynccontextmanager
async def announcing(broker: Broker, clock: Callable[[], float] = time.time) -> AsyncIterator[Announcer]:
    """An announcer on a broker."""
    announcer = Announcer(clock)
    async with task_group() as group:
        group.create_task(announcer._publish(broker), name="announcer.publish")
        yield announcer
        announcer._end()
