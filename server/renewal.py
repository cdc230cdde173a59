"""Gives the open rounds of a system that was off their whole time again.

While the broker was off, no client could take a task or bring an update, so that time says nothing about the clients.
Without this a round would fail whose deadline has passed meanwhile, and the job would go on with another cohort to
another model.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from broker import topics
from broker.base import Broker
from broker.errors import Conflict, StorageFull
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.job_record import JobRecord
from broker.support import loggers

log = loggers.get_logger(__name__)

_ALL_TASKS: Final = topics.platform_tasks(topics.ANY)


async def renew_open_rounds(broker: Broker, clock: Callable[[], float]) -> None:
    """Give every open round of a broker that has just started its whole time again, before a server goes on with it.

    The server sends the tasks again. Those that are left say for how long they may run since they were published, so
    they are deleted. If this is stopped, the next start does all of it again.

    Args:
        broker: keeps the jobs' records and tasks. No server of ours uses it yet.
        clock: seconds since the epoch.

    Raises:
        Disconnected: the broker was unreachable for longer than a call may take.
    """
    values = (await broker.snapshot(topics.job_record(topics.ANY))).values()
    records = [(record, value.revision) for value in values if (record := _decoded(value.payload))]
    renewed = [await _renew(broker, *each, clock()) for each in records if _is_collecting(each[0])]
    if any(renewed):
        await broker.purge(_ALL_TASKS)


async def _renew(broker: Broker, record: JobRecord, revision: int, now_s: float) -> bool:
    """Put it on record that the open round has its whole time again, and return whether it has."""
    renewed = msgspec.structs.replace(
        record,
        deadline_s=now_s + record.job.cohort.deadline_s,
        renewed_s=now_s,
        invited=False,
        changes=record.changes + 1,
    )
    try:
        await broker.put(topics.job_record(record.id), codec.encode(renewed), revision=revision)
    except (Conflict, StorageFull) as exc:
        log.warning("the open round does not get its whole time again", job=record.id, error=str(exc))
        return False
    log.info("the open round has its whole time again", job=record.id, round=record.round)
    return True


def _decoded(payload: bytes) -> JobRecord | None:
    try:
        return codec.decode(JobRecord, payload)
    except DecodeError:
        return None  # the server says why it can't go on with the job


def _is_collecting(record: JobRecord) -> bool:
    return bool(record.cohort) and record.closed is None and not record.has_ended
