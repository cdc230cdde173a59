"""Follows jobs: their progress events, and what their records say of jobs whose events are forgotten."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from broker import topics
from broker.base import Broker, Start
from broker.deliveries import Delivery, Reader
from broker.errors import BrokerError, CorruptPayload, Disconnected
from broker.messages import codec, origin, progress
from broker.messages.errors import DecodeError
from broker.messages.job_record import JobRecord
from broker.messages.progress import FINAL_EVENTS, JobRejected, Progress
from broker.support import loggers
from broker.support.tasks import task_group
from fedkeeper.errors import NoSuchJob

log = loggers.get_logger(__name__)

CHECK_S: Final = 10.0
"""Time between two looks at a job's record. Seconds."""

ANSWER_S: Final = 5.0
"""A broker that does not answer for so long is out of reach. Seconds."""

AGAIN_S: Final = 3.0
"""Time until the next look if there is no record. A server may be about to accept the job, or to put it back after a
crash of the broker. Seconds."""

MISSED: Final = 2
"""There is no job if its record is missing so often in a row."""

QUEUE_SIZE: Final = 64

OnReach = Callable[[bool], None]
"""Called with False when the broker is out of reach, and with True when it answers again."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """What the job's record was; every event that was in the log then has been read. None: there is no record."""

    record: JobRecord | None


_Item = Progress | _Looked | BrokerError


async def events(bus: Broker, job: str) -> AsyncGenerator[Progress, None]:
    """Yield a job's progress events, each once, without end.

    Args:
        bus: the broker.
        job: the job's id; `*` for every job.
    """
    async with bus.subscribe(topics.job_progress(job), start="first", prefetch=QUEUE_SIZE) as deliveries:
        async for update in _decoded(deliveries):
            yield update


async def follow(
    bus: Broker, job: str | None, on_reach: OnReach, start: Start = "first"
) -> AsyncGenerator[Progress, None]:
    """Yield a job's progress events, each once, until the job has ended; those of every job without end.

    If the end's event is forgotten, the job's record says how it ended.

    Args:
        bus: the broker.
        job: the job's id; None: every job.
        on_reach: is told when the broker is out of reach, and when it answers again.
        start: `first`, `new`, or the time of the first event.

    Raises:
        NoSuchJob: there is no such job, or there is none any more.
    """
    missed = 0
    async with _open(bus, job, on_reach, start) as items:
        while True:
            item = await items.get()
            missed = missed + 1 if item == _Looked(None) else 0
            match item:
                case _Looked(None) if job is not None and missed >= MISSED:
                    raise NoSuchJob(job)
                case _Looked(JobRecord(is_finished=True) as record):
                    yield _end_of(record)
                    return
                case Progress() as update:
                    yield update
                    if job is not None and await _is_last(bus, update):
                        return
                case BrokerError() as error:
                    raise error
                case _:
                    pass


async def past(bus: Broker, job: str, on_reach: OnReach) -> AsyncGenerator[Progress, None]:
    """Yield the events of a job that the broker has now, each once.

    Args:
        bus: the broker.
        job: the job's id.
        on_reach: is told when the broker is out of reach, and when it answers again.
    """
    async with _open(bus, job, on_reach, "first") as items:
        while True:
            match await items.get():
                case Progress() as update:
                    yield update
                case BrokerError() as error:
                    raise error
                case _:
                    return


def _end_of(record: JobRecord) -> Progress:
    # Imported here because it needs numpy, and most commands do not.
    from server import round_facts

    return Progress(record.id, round_facts.end_event(record), record.ended_s, f"{record.id}.end")


async def _is_last(bus: Broker, update: Progress) -> bool:
    """Whether a job has ended with an event. A refusal may be that of an earlier job under the same id."""
    if isinstance(update.event, JobRejected):
        return await bus.get(topics.job_record(update.job)) is None
    return isinstance(update.event, FINAL_EVENTS)


@contextlib.asynccontextmanager
async def _open(bus: Broker, job: str | None, on_reach: OnReach, start: Start) -> AsyncIterator["asyncio.Queue[_Item]"]:
    """Open a queue of events, and of looks at the record."""
    queue: asyncio.Queue[_Item] = asyncio.Queue(QUEUE_SIZE)
    topic_filter = topics.job_progress(topics.ANY if job is None else job)
    async with bus.subscribe(topic_filter, start=start, prefetch=QUEUE_SIZE) as deliveries, task_group() as group:
        tasks = [
            group.create_task(_read(deliveries, queue), name=f"read {topic_filter}"),
            group.create_task(_look(bus, job, deliveries, queue, on_reach), name=f"look at {topic_filter}"),
        ]
        try:
            yield queue
        finally:
            for task in tasks:
                task.cancel()


async def _read(deliveries: Reader[Delivery], queue: "asyncio.Queue[_Item]") -> None:
    try:
        async for update in _decoded(deliveries):
            await queue.put(update)
    except BrokerError as exc:
        await queue.put(exc)  # raised where the events are taken, not into whatever the caller awaits


async def _look(
    bus: Broker, job: str | None, deliveries: Reader[Delivery], queue: "asyncio.Queue[_Item]", on_reach: OnReach
) -> None:
    """Look at the record again and again; tell the queue what it was, after the events that were there by then."""
    in_reach = True
    while True:
        pause_s = CHECK_S
        try:
            async with asyncio.timeout(ANSWER_S):
                value = await bus.get(topics.job_record(job or "none"))
            is_there = True
            record = None if value is None else codec.decode(JobRecord, value.payload)
            pause_s = AGAIN_S if record is None else CHECK_S
            await deliveries.catch_up()
            await queue.put(_Looked(record))
        except DecodeError:
            pass  # a newer server's record; its events may be readable
        except (TimeoutError, Disconnected):
            is_there = False
        except BrokerError as exc:
            await queue.put(exc)
            return
        if is_there != in_reach:
            on_reach(is_there)
            in_reach = is_there
        await asyncio.sleep(pause_s)


async def _decoded(deliveries: AsyncIterator[Delivery]) -> AsyncIterator[Progress]:
    """Yield the events that this program knows, each once."""
    seen: set[str] = set()
    async for delivery in deliveries:
        try:
            update = progress.decode(await delivery.read())
            origin.check_topic(delivery.topic, topics.progress, update.job, *update.event.what.split("."))
        except (DecodeError, CorruptPayload):
            continue  # an event of a newer server, or a foreign message
        if update.id not in seen:
            seen.add(update.id)
            yield update
