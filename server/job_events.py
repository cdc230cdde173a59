"""A job's events: updates, invocations, a cancellation, changes of the register and of the bridges, and timeouts.

The log comes before the clock: a wait is over only when everything has been read that the broker held at that time.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery, Reader
from broker.errors import CorruptPayload
from broker.messages import cloudevents, origin
from broker.messages.errors import DecodeError
from broker.messages.invocation import Invocation
from broker.support import loggers
from broker.support.tasks import task_group
from server.errors import JobCancelled
from server.following import Versioned
from server.presence import BridgePresence
from server.registry import Registry

log = loggers.get_logger(__name__)

T = TypeVar("T")

_CLOCK_SKEW_S: Final = 60.0
"""The replay of invocations starts this much before the round was opened. Older ones are recognised by their round."""

_QUEUE_SIZE: Final = 2
"""Updates wait in the broker, not in memory: two are enough to keep the aggregator busy."""

_REPORTS_SIZE: Final = 64
"""Invocations are small, and wait in a queue of their own: they are taken before the updates that follow from them."""


_GATHER_S: Final = 0.05
"""Changes of the register within this time are one event: thousands of clients are registered one after the other, and
who waits for clients looks at all of them after each event."""


@dataclass(frozen=True, slots=True)
class UpdateArrived:
    """An update is in the log."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class InvocationReported:
    """A bridge has reported an invocation's outcome.

    Attributes:
        invocation: the report.
        time_s: when the broker stored it, seconds since the epoch.
    """

    invocation: Invocation
    time_s: float


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
    """The wait for the next event is over.

    Attributes:
        read_s: every event that the broker held at this time was returned before; seconds on the clock of the events.
    """

    read_s: float


@dataclass(frozen=True, slots=True)
class _ReadToEnd:
    """Everything that the broker held at this time is before this in the queues."""

    asked_s: float


JobEvent = UpdateArrived | InvocationReported | CancelRequested | RegisterChanged | PresenceChanged | TimedOut


class _Log(Protocol):
    """What can be read to its end: a reader of the broker, or a view of its values."""

    async def catch_up(self) -> None: ...


class JobEvents:
    """The queues of a job's events. `open_job_events` fills them.

    Args:
        clock: seconds; the times that `next` is given are read on it. It never jumps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._cancelled = asyncio.Event()
        self._clock = clock
        self._queue: asyncio.Queue[JobEvent | _ReadToEnd] = asyncio.Queue(_QUEUE_SIZE)
        self._reports: asyncio.Queue[InvocationReported] = asyncio.Queue(_REPORTS_SIZE)
        self._arrived = asyncio.Event()
        self._end_asked = asyncio.Event()
        self._is_reading_to_end = False
        self._invocations: Reader[Delivery] | None = None

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
        """Wait for the next event.

        Return `TimedOut` when it is `until_s` and every event that the broker held then has been returned. Later
        events wait behind it, so the wait ends however many of them come.

        Args:
            until_s: end of the wait, in seconds on the clock of the events.
        """
        while True:
            if self._clock() >= until_s and not self._is_reading_to_end:
                self._is_reading_to_end = True
                self._end_asked.set()
            match await self._take(until_s):
                case _ReadToEnd(asked_s):
                    self._is_reading_to_end = False
                    # It may answer an earlier wait.
                    if asked_s >= until_s:
                        return TimedOut(asked_s)
                case None:
                    pass
                case event:
                    return event

    async def reports_so_far(self) -> list[InvocationReported]:
        """Return the invocations that the broker holds now and that `next` has not returned yet."""
        if self._invocations is None:
            return []
        reports: list[InvocationReported] = []
        reading = asyncio.create_task(self._invocations.catch_up(), name="read the invocations so far")
        reading.add_done_callback(lambda _: self._arrived.set())
        try:
            while True:
                is_read = reading.done()
                while not self._reports.empty():
                    reports.append(self._reports.get_nowait())
                if is_read:
                    reading.result()
                    return reports
                await self._wait_for_arrival()
        finally:
            reading.cancel()

    async def _take(self, until_s: float) -> JobEvent | _ReadToEnd | None:
        """Take the next item; None when it is `until_s`, unless the end of the log is on its way anyway."""
        wait_s = None if self._is_reading_to_end else max(0.0, until_s - self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    # An invocation is the reason of an update, so it comes first.
                    for queue in (self._reports, self._queue):
                        if not queue.empty():
                            return queue.get_nowait()
                    await self._wait_for_arrival()
        return None

    async def _wait_for_arrival(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    async def _put(self, event: JobEvent | _ReadToEnd) -> None:
        await self._queue.put(event)
        self._arrived.set()

    async def _read_updates(self, deliveries: Reader[Delivery]) -> None:
        async for delivery in deliveries:
            await self._put(UpdateArrived(delivery))

    async def _read_invocations(self, deliveries: Reader[Delivery], job: str) -> None:
        self._invocations = deliveries
        async for delivery in deliveries:
            try:
                invocation = cloudevents.data_of(await delivery.read(), Invocation)
                # A bridge that may write to one platform's topics must not speak for another's clients.
                origin.check_topic(delivery.topic, topics.invocation, invocation.platform, invocation.client)
            except (DecodeError, CorruptPayload) as exc:
                log.warning("unreadable invocation record", topic=delivery.topic, error=str(exc))
                continue
            if invocation.job == job:
                await self._reports.put(InvocationReported(invocation, delivery.time_s))
                self._arrived.set()

    async def _read_cancellations(self, deliveries: Reader[Delivery]) -> None:
        async for _ in deliveries:
            self._cancelled.set()
            await self._put(CancelRequested())

    async def _read_changes(
        self, view: Versioned, event: RegisterChanged | PresenceChanged, gather_s: float = 0.0
    ) -> None:
        version = view.version
        while True:
            version = await view.wait_for_change(version)
            await self._put(event)
            await asyncio.sleep(gather_s)

    async def _read_to_end(self, logs: Iterable[_Log]) -> None:
        """Whenever the end is asked for, put it into the queue behind everything that the broker holds then."""
        while True:
            await self._end_asked.wait()
            self._end_asked.clear()
            asked_s = self._clock()
            async with task_group() as group:
                for each in logs:
                    group.create_task(each.catch_up(), name="read a log to its end")
            await self._put(_ReadToEnd(asked_s))


@contextlib.asynccontextmanager
async def open_job_events(
    broker: Broker,
    registry: Registry,
    presence: BridgePresence,
    *,
    job: str,
    since_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[JobEvents]:
    """Open the event queues of a job. Updates are replayed from the first one in the log.

    Args:
        broker: delivers updates, invocations and cancellations.
        registry: the registered clients.
        presence: the bridges.
        job: the job's id.
        since_s: invocations are replayed from then on, seconds since the epoch.
        clock: seconds on a clock that never jumps.
    """
    events, since = JobEvents(clock), datetime.fromtimestamp(max(0.0, since_s - _CLOCK_SKEW_S), UTC)
    async with (
        broker.subscribe(topics.job_updates(job), start="first") as updates,
        broker.subscribe(topics.invocation(topics.ANY, topics.ANY), start=since, prefetch=64) as invocations,
        broker.subscribe(topics.cancellation(job), start="first", prefetch=1) as cancellations,
        task_group() as group,
    ):
        logs = (updates, invocations, cancellations, registry, presence)
        readers = {
            "updates": events._read_updates(updates),
            "invocations": events._read_invocations(invocations, job),
            "cancellations": events._read_cancellations(cancellations),
            "register": events._read_changes(registry, RegisterChanged(), _GATHER_S),
            "presence": events._read_changes(presence, PresenceChanged()),
            "end of the logs": events._read_to_end(logs),
        }
        tasks = [group.create_task(reader, name=f"{job}.{name}") for name, reader in readers.items()]
        yield events
        for task in tasks:
            task.cancel()
