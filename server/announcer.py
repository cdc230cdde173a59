"""Tells the world what happens: progress events, in order, without making a round wait for each."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import structlog

from broker import progress
from broker.base import Broker
from broker.concurrency import task_group
from broker.progress import Event, Progress

log = structlog.get_logger(__name__)


class Announcer:
    """Use it as `async with announcing(broker) as announcer`; leaving it waits until all is said."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: asyncio.Queue[Progress | None] = asyncio.Queue()

    def say(self, job: str, event: Event, *about: object) -> None:
        """Announce an event of a job.

        Args:
            job: its id.
            event: what happened.
            about: what tells it from others of its kind (a round, a client, an attempt); said again after a crash, it
                has the same id.
        """
        name = ".".join((job, event.what, *map(str, about)))
        self._said.put_nowait(Progress(job, event, self._clock(), name))

    async def flushed(self) -> None:
        """Return when all that was said is with the broker."""
        await self._said.join()

    async def _publish(self, broker: Broker) -> None:
        while (said := await self._said.get()) is not None:
            log.debug(said.event.what, job=said.job, id=said.id)
            topic = progress.topic_of(said.job, said.event)
            await broker.publish(topic, progress.encode(said), dedupe=said.id)
            self._said.task_done()

    def _end(self) -> None:
        self._said.put_nowait(None)


@contextlib.asynccontextmanager
async def announcing(broker: Broker, clock: Callable[[], float] = time.time) -> AsyncIterator[Announcer]:
    """An announcer on a broker."""
    announcer = Announcer(clock)
    async with task_group() as group:
        group.create_task(announcer._publish(broker), name="announcer.publish")
        yield announcer
        announcer._end()
