"""Deletes what finished jobs leave on the broker, and what belongs to no job: at jobs' ends, at the start, hourly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final

from broker import topics
from broker.base import Broker
from broker.errors import Denied
from broker.messages import codec, job_record
from broker.messages.errors import DecodeError
from broker.messages.job_record import JobRecord
from broker.support import loggers
from broker.support.tasks import task_group
from server import removal, retention
from server.held import Held
from server.retention import Retention

log = loggers.get_logger(__name__)

HOUR_S: Final = 3600.0
PAUSE_S: Final = 10.0
"""Shortest time between two cleanings. Seconds."""

LATE_S: Final = 60.0
"""So long after the last deadline of an ended job its clients may still write. Seconds."""

STRAGGLERS_S: Final = (5.0, 20.0, 60.0)
"""So long after a job's end it is looked at again: what its clients were sending then is there by now. Seconds."""

UNKNOWN_S: Final = 600.0
"""What belongs to a job without a record is deleted if the job still has none so much later. Seconds."""

RESERVE_S: Final = 30.0
"""How often the reserve is checked. Seconds."""


class Housekeeper:
    """Applies the retention, and deletes what is left over.

    Args:
        broker: has the jobs.
        limits: which finished jobs are kept.
        clock: seconds since the epoch.
        held: what the server holds of its jobs; None: nothing.
    """

    def __init__(self, broker: Broker, limits: Retention, clock: Callable[[], float], held: Held | None = None) -> None:
        self._held = Held() if held is None else held
        self._broker = broker
        self._limits = limits
        self._clock = clock
        self._job_ended = asyncio.Event()
        self._unknown_since_s: dict[str, float] = {}

    def job_ended(self) -> None:
        """Note that a job has ended."""
        self._job_ended.set()

    async def clean(self) -> float:
        """Delete what is left over, then the jobs that are not kept any longer.

        Returns:
            When to do it again at the latest, in seconds since the epoch.
        """
        values = await self._broker.snapshot(topics.job_record(topics.ANY))
        records = {topic: _decoded(value.payload, topic) for topic, value in values.items()}
        # A job whose record is unreadable has one all the same.
        known = {topic.rpartition(".")[2]: record for topic, record in records.items()}
        await self._delete_leftovers(known)
        readable, now_s = [record for record in known.values() if record is not None], self._clock()
        finished = [record for record in readable if record.is_finished]
        needed = retention.needed(readable)
        for job in retention.expired(map(retention.of, finished), needed, self._limits, now_s):
            log.info("a finished job is deleted, as the retention says", job=job.id, bytes=job.bytes)
            await removal.remove(self._broker, job.id)
        return min((each_s for each_s in _checks_s(finished) if each_s > now_s), default=now_s + HOUR_S)

    async def _delete_leftovers(self, known: dict[str, JobRecord | None]) -> None:
        stored = await self._stored_by_job()
        unknown = stored.keys() - known.keys()
        now_s = self._clock()
        self._unknown_since_s = {job: self._unknown_since_s.get(job, now_s) for job in unknown}
        for job, since_s in self._unknown_since_s.items():
            if now_s >= since_s + UNKNOWN_S:
                log.info("what belongs to a job that is not there is deleted", job=job)
                await removal.remove_unknown(self._broker, job)
        for job in stored.keys() & known.keys():
            record = known[job]
            if record is not None and record.is_finished:
                named = {blob.topic for blob in job_record.blobs(record)}
                if stored[job] - named:
                    await removal.delete_leftovers(self._broker, record)

    async def _stored_by_job(self) -> dict[str, set[str]]:
        """Return the topics of all models, updates and states, by job; also those of which there are only chunks."""
        found = dict[str, set[str]]()
        for topic_filter in (topics.ALL_UPDATES, topics.ALL_STATES, topics.ALL_MODELS):
            whole = await self._broker.stored_topics(topic_filter)
            chunks = await self._broker.stored_topics(topics.chunks_of(topic_filter))
            for topic in whole | set(map(topics.payload_of_chunk, chunks)):
                found.setdefault(topic.split(".")[2], set()).add(topic)
        return found

    async def _clean_until_cancelled(self) -> None:
        while True:
            self._job_ended.clear()
            again_s = self._clock() + HOUR_S
            with _without_rights():
                again_s = await self.clean()
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, again_s - self._clock())):
                    await self._job_ended.wait()

    async def _hold_reserve(self) -> None:
        while True:
            with _without_rights():
                await self._broker.hold_reserve()
            self._held.forget_old(self._clock())
            await asyncio.sleep(RESERVE_S)


@contextlib.asynccontextmanager
async def open_housekeeper(
    broker: Broker, limits: Retention, clock: Callable[[], float], held: Held | None = None
) -> AsyncIterator[Housekeeper]:
    """Clean up in the background until the end of the block.

    Args:
        broker: has the jobs.
        limits: which finished jobs are kept.
        clock: seconds since the epoch.
        held: what the server holds of its jobs; None: nothing.
    """
    housekeeper = Housekeeper(broker, limits, clock, held)
    async with task_group() as group:
        tasks = [
            group.create_task(housekeeper._clean_until_cancelled(), name="housekeeping"),
            group.create_task(housekeeper._hold_reserve(), name="reserve"),
        ]
        yield housekeeper
        for task in tasks:
            task.cancel()


def _checks_s(finished: Iterable[JobRecord]) -> Iterator[float]:
    """Return when finished jobs are to be looked at, past times too, in seconds since the epoch."""
    for record in finished:
        yield from (record.ended_s + after_s for after_s in STRAGGLERS_S)
        yield record.deadline_s + LATE_S


@contextlib.contextmanager
def _without_rights() -> Iterator[None]:
    """Log that the server may not clean up: it can do all else."""
    try:
        yield
    except Denied as exc:
        log.warning("the server may not delete what is left over", error=str(exc))


def _decoded(payload: bytes, topic: str) -> JobRecord | None:
    try:
        return codec.decode(JobRecord, payload)
    except DecodeError as exc:
        log.warning("unreadable record of a job", topic=topic, error=str(exc))
        return None
