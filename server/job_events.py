"""Everything that can happen to one job, in one queue: updates, invocations, a cancellation, the register's changes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from broker import topics
from broker.base import Broker, Delivery
from broker.errors import CorruptPayload
from broker.messages import cloudevents
from broker.messages.errors import DecodeError
from broker.messages.invocation import Invocation
from broker.support.tasks import task_group
from server.presence import BridgePresence
from server.registry import Registry

log = structlog.get_logger(__name__)

_CLOCK_SKEW_S: Final = 60.0
"""Invocations are replayed from a little before the round was opened; stale ones are told by their round."""


@dataclass(frozen=True, slots=True)
class UpdateArrived:
    """An update lies in the log."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Invoked:
    """A bridge says what became of an invocation."""

    invocation: Invocation


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Someone wants the job to end."""


@dataclass(frozen=True, slots=True)
class RegisterChanged:
    """Clients came, went or changed."""


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """Bridges came or went."""


@dataclass(frozen=True, slots=True)
class TimeUp:
    """The time that was asked for has come."""


JobEvent = UpdateArrived | Invoked | CancelAsked | RegisterChanged | PresenceChanged | TimeUp


class JobEvents:
    """Use it as `async with reading(...) as inbox`.

    Attributes:
        cancel_asked: someone wants the job to end, whether or not that was taken out of the queue yet.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.cancel_asked = False
        self._clock = clock
        # Updates wait in the broker, not here: a few are enough to keep the aggregator busy.
        self._queue: asyncio.Queue[JobEvent] = asyncio.Queue(8)

    async def next(self, until_s: float) -> JobEvent:
        """What happened next, or TimeUp at `until_s` (seconds since the epoch)."""
        try:
            async with asyncio.timeout(max(0.0, until_s - self._clock())):
                return await self._queue.get()
        except TimeoutError:
            return TimeUp()

    async def _updates(self, broker: Broker, job: str) -> None:
        async with broker.subscribe(topics.job_updates(job), start="first") as deliveries:
            async for delivery in deliveries:
                await self._queue.put(UpdateArrived(delivery))

    async def _invocations(self, broker: Broker, job: str, since_s: float) -> None:
        every = topics.invocation(topics.ANY, topics.ANY)
        since = datetime.fromtimestamp(since_s - _CLOCK_SKEW_S, UTC)
        async with broker.subscribe(every, start=since, prefetch=64) as deliveries:
            async for delivery in deliveries:
                invocation = await _invocation(delivery)
                if invocation is not None and invocation.job == job:
                    await self._queue.put(Invoked(invocation))

    async def _cancellations(self, broker: Broker, job: str) -> None:
        async with broker.subscribe(topics.cancellation(job), start="first", prefetch=1) as deliveries:
            async for _ in deliveries:
                self.cancel_asked = True
                await self._queue.put(CancelAsked())

    async def _register(self, registry: Registry) -> None:
        version = registry.version
        while True:
            version = await registry.changed(version)
            await self._queue.put(RegisterChanged())

    async def _attendance(self, attendance: BridgePresence) -> None:
        version = attendance.version
        while True:
            version = await attendance.changed(version)
            await self._queue.put(PresenceChanged())


async def _invocation(delivery: Delivery) -> Invocation | None:
    try:
        return cloudevents.data_of(await delivery.read(), Invocation)
    except (DecodeError, CorruptPayload) as exc:
        log.warning("unreadable invocation record", topic=delivery.topic, error=str(exc))
        return None


@contextlib.asynccontextmanager
async def reading(
    broker: Broker,
    registry: Registry,
    attendance: BridgePresence,
    *,
    job: str,
    since_s: float,
    clock: Callable[[], float],
) -> AsyncIterator[JobEvents]:
    """The inbox of a job; invocations are replayed from `since_s` (seconds since the epoch) on."""
    inbox = JobEvents(clock)
    async with task_group() as group:
        readers = [
            group.create_task(inbox._updates(broker, job), name=f"{job}.updates"),
            group.create_task(inbox._invocations(broker, job, since_s), name=f"{job}.invocations"),
            group.create_task(inbox._cancellations(broker, job), name=f"{job}.cancellations"),
            group.create_task(inbox._register(registry), name=f"{job}.register"),
            group.create_task(inbox._attendance(attendance), name=f"{job}.attendance"),
        ]
        yield inbox
        for reader in readers:
            reader.cancel()
