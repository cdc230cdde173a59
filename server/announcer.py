"""Publishes progress events, and does not make a round wait for each of them.

The broker may be slow to store an event, for example behind a flood of other messages, and it stores many at once for
little more than one. Therefore events about clients gather for a moment, unless another event comes or somebody waits
for one, and those whose order says nothing, of different clients, are published at the same time; other events of a job
come before or after.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from broker.base import Broker
from broker.messages.progress import Event, Progress
from broker.support import loggers
from broker.support.tasks import task_group
from server.held import Held
from server.room import publish_event

AT_ONCE: Final = 256
"""The most events that are published at the same time."""

GATHER_S: Final = 0.25
"""How long an event about a client may wait for others. Nobody who watches a job sees the difference. Seconds."""

log = loggers.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event on its way to the broker.

    Attributes:
        progress: the event with its job and id.
        published: set when the broker has it.
    """

    progress: Progress
    published: asyncio.Event = field(default_factory=asyncio.Event)


class Announcer:
    """A queue of progress events. `open_announcer` publishes them.

    Args:
        clock: seconds since the epoch.
        held: gets what is published; None: nobody needs it.
    """

    def __init__(self, clock: Callable[[], float], held: Held | None = None) -> None:
        self._clock = clock
        self._held = Held() if held is None else held
        self._queue = deque[Announcement]()
        self._unpublished: dict[int, Announcement] = {}
        self._epochs: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._is_closing = False

    @contextlib.contextmanager
    def epoch(self, job: str, epoch: str) -> Iterator[None]:
        """Put an epoch into the ids of a job's events until the end of the block.

        A broker takes an event whose id it has seen in the last minutes for a repetition. Without the epoch it would
        drop the events of a job whose id a deleted job had.

        Args:
            job: the job's id.
            epoch: as in its record; empty: a server of an earlier version accepted the job, and the ids have none.
        """
        self._epochs[job] = epoch
        try:
            yield
        finally:
            del self._epochs[job]

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
        announcement = self._put(job, event, key)
        self._is_urgent.set()
        await announcement.published.wait()

    async def settle(self, job: str) -> None:
        """Return when the broker has every event of a job that was announced before.

        A round's end comes after its events: nobody announces them again once the record says that it is over.
        """
        self._is_urgent.set()
        for announcement in list(self._unpublished.values()):
            if announcement.progress.job == job:
                await announcement.published.wait()

    def _put(self, job: str, event: Event, key: tuple[object, ...]) -> Announcement:
        epoch = self._epochs.get(job)
        event_id = ".".join((job, *([epoch] if epoch else []), event.what, *map(str, key)))
        announcement = Announcement(Progress(job, event, self._clock(), event_id))
        self._queue.append(announcement)
        self._unpublished[id(announcement)] = announcement
        if not getattr(event, "client", ""):
            self._is_urgent.set()
        self._changed.set()
        return announcement

    def _close(self) -> None:
        self._is_closing = True
        self._is_urgent.set()
        self._changed.set()

    async def _publish_all(self, broker: Broker) -> None:
        """Publish the queue until it is closed and empty."""
        while self._queue or not self._is_closing:
            self._changed.clear()
            if self._queue:
                await self._gather()
            while batch := take_batch(self._queue):
                async with task_group() as group:
                    for announcement in batch:
                        name = f"announce {announcement.progress.id}"
                        group.create_task(self._announce(broker, announcement), name=name)
            if not self._is_closing:
                await self._changed.wait()

    async def _gather(self) -> None:
        """Wait for more events, until somebody waits for one of them."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._is_urgent.wait()
        self._is_urgent.clear()

    async def _announce(self, broker: Broker, announcement: Announcement) -> None:
        event = announcement.progress
        log.debug(event.event.what, job=event.job, id=event.id)
        await publish_event(broker, event)
        self._held.note_event(event)
        del self._unpublished[id(announcement)]
        announcement.published.set()


def take_batch(queue: deque[Announcement]) -> list[Announcement]:
    """Remove and return the queue's events that may reach the broker now, in any order, up to AT_ONCE.

    At most one event of each client of a job is among them, its first one, and an event that is not about a client is
    the only one of its job.

    Args:
        queue: what stays in it keeps its order.
    """
    batch, later, taken = list[Announcement](), list[Announcement](), dict[str, set[str]]()
    while queue and max(len(batch), len(later)) < AT_ONCE:
        announcement = queue.popleft()
        event = announcement.progress
        client, clients = getattr(event.event, "client", ""), taken.setdefault(event.job, set())
        must_wait = bool(clients) and (not client or "" in clients or client in clients)
        clients.add(client)
        (later if must_wait else batch).append(announcement)
    queue.extendleft(reversed(later))
    return batch


@contextlib.asynccontextmanager
async def open_announcer(
    broker: Broker, clock: Callable[[], float] = time.time, held: Held | None = None
) -> AsyncIterator[Announcer]:
    """Open an announcer; leaving the context waits until every queued event is published.

    Args:
        broker: takes the events.
        clock: seconds since the epoch.
        held: what the server holds; None: nothing before.
    """
    announcer = Announcer(clock, held)
    async with task_group() as group:
        group.create_task(announcer._publish_all(broker), name="announcer.publish")
        yield announcer
        announcer._close()
