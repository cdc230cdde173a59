"""A job's events in one queue: updates, invocations, a cancellation, changes of the register and of the bridges."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import structlog

from broker import topics
from broker.base import Broker, Delivery
from broker.errors import CorruptPayload
from broker.messages import cloudevents, origin
from broker.messages.errors import DecodeError
from broker.messages.invocation import Invocation
from broker.support.tasks import task_group
from server.errors import JobCancelled
from server.following import Versioned
from server.presence import BridgePresence
from server.registry import Registry

log = structlog.get_logger(__name__)

T = TypeVar("T")

_CLOCK_SKEW_S: Final = 60.0
"""The replay of invocations starts this much before the round was opened. Older ones are recognised by their round."""

_QUEUE_SIZE: Final = 8
"""Updates wait in the broker, not in memory: a few are enough to keep the aggregator busy."""


@dataclass(frozen=True, slots=True)
class UpdateArrived:
    """An update is in the log."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class InvocationReported:
    """A bridge has reported an invocation's outcome."""

    invocation: Invocation


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A person wants the job to end."""


@dataclass(frozen=True, slots=True)
class RegisterChanged:
    """The client register has changed."""


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """The set of platforms with a bridge has changed."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The wait for the next event is over."""


JobEvent = UpdateArrived | InvocationReported | CancelRequested | RegisterChanged | PresenceChanged | TimedOut


class JobEvents:
    """The queue of a job's events. `open_job_events` fills it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._cancelled = asyncio.Event()
        self._clock = clock
        self._queue: asyncio.Queue[JobEvent] = asyncio.Queue(_QUEUE_SIZE)

    @property
    def cancel_requested(self) -> bool:
        """Whether the job is to be cancelled; set before the event leaves the queue."""
        return self._cancelled.is_set()

    async def unless_cancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a step, or end the step when the job is to be cancelled.

        Raises:
            JobCancelled: the job is to be cancelled.
        """
        step = asyncio.create_task(work, name="step of a job")
        cancelled = asyncio.create_task(self._cancelled.wait(), name="wait for a cancellation")
        try:
            await asyncio.wait({step, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                raise JobCancelled("a person cancelled the job")
            return step.result()
        finally:
            step.cancel()
            cancelled.cancel()
            # Takes their errors too: nobody else would.
            await asyncio.gather(step, cancelled, return_exceptions=True)

    async def next(self, until_s: float) -> JobEvent:
        """Wait for the next event; return `TimedOut` at `until_s` (seconds since the epoch)."""
        try:
            async with asyncio.timeout(max(0.0, until_s - self._clock())):
                return await self._queue.get()
        except TimeoutError:
            return TimedOut()

    async def _read_updates(self, broker: Broker, job: str) -> None:
        async with broker.subscribe(topics.job_updates(job), start="first") as deliveries:
            async for delivery in deliveries:
                await self._queue.put(UpdateArrived(delivery))

    async def _read_invocations(self, broker: Broker, job: str, since_s: float) -> None:
        topic_filter = topics.invocation(topics.ANY, topics.ANY)
        since = datetime.fromtimestamp(since_s - _CLOCK_SKEW_S, UTC)
        async with broker.subscribe(topic_filter, start=since, prefetch=64) as deliveries:
            async for delivery in deliveries:
                try:
                    invocation = cloudevents.data_of(await delivery.read(), Invocation)
                    # A bridge that may write to one platform's topics must not speak for another's clients.
                    origin.check_topic(delivery.topic, topics.invocation, invocation.platform, invocation.client)
                except (DecodeError, CorruptPayload) as exc:
                    log.warning("unreadable invocation record", topic=delivery.topic, error=str(exc))
                    continue
                if invocation.job == job:
                    await self._queue.put(InvocationReported(invocation))

    async def _read_cancellations(self, broker: Broker, job: str) -> None:
        async with broker.subscribe(topics.cancellation(job), start="first", prefetch=1) as deliveries:
            async for _ in deliveries:
                self._cancelled.set()
                await self._queue.put(CancelRequested())

    async def _read_changes(self, view: Versioned, event: RegisterChanged | PresenceChanged) -> None:
        version = view.version
        while True:
            version = await view.wait_for_change(version)
            await self._queue.put(event)


@contextlib.asynccontextmanager
async def open_job_events(
    broker: Broker,
    registry: Registry,
    presence: BridgePresence,
    *,
    job: str,
    since_s: float,
    clock: Callable[[], float],
) -> AsyncIterator[JobEvents]:
    """Open the event queue of a job. Updates are replayed from the first one in the log.

    Args:
        broker: delivers updates, invocations and cancellations.
        registry: the registered clients.
        presence: the bridges.
        job: the job's id.
        since_s: invocations are replayed from then on, seconds since the epoch.
        clock: seconds since the epoch.
    """
    events = JobEvents(clock)
    readers = {
        "updates": events._read_updates(broker, job),
        "invocations": events._read_invocations(broker, job, since_s),
        "cancellations": events._read_cancellations(broker, job),
        "register": events._read_changes(registry, RegisterChanged()),
        "presence": events._read_changes(presence, PresenceChanged()),
    }
    async with task_group() as group:
        tasks = [group.create_task(reader, name=f"{job}.{name}") for name, reader in readers.items()]
        yield events
        for task in tasks:
            task.cancel()
