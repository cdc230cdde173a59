"""The FL server: takes submissions, and runs every job whose record has not ended."""

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog

from broker import topics
from broker.base import Broker, Deleted, Value
from broker.errors import Disconnected
from broker.messages import codec, job_record
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.job_record import JobRecord
from broker.support.tasks import task_group
from server import jobs, presence, registry
from server.announcer import announcing
from server.jobs import JobContext
from server.learning import Learning
from server.submissions import SubmissionHandler

log = structlog.get_logger(__name__)


def _nothing() -> None:
    """Nobody wants to know."""


def unguessable() -> str:
    """256 random bits as text."""
    return secrets.token_hex(32)


async def serve(
    broker: Broker,
    learning: Learning,
    *,
    clock: Callable[[], float] = time.time,
    secret: Callable[[], str] = unguessable,
    on_ready: Callable[[], None] = _nothing,
) -> None:
    """Be the FL server until cancelled. Jobs that were running when a server went down go on where they stood.

    Args:
        broker: where jobs arrive and everything is kept.
        learning: builds and judges models.
        clock: seconds since the epoch.
        secret: makes an unguessable text.
        on_ready: called when jobs are taken.

    Raises:
        Disconnected: the broker was out of reach for longer than a call may take; call it again.
    """
    async with (
        announcing(broker, clock) as announcer,
        registry.opened(broker) as clients,
        presence.opened(broker, clock) as bridges,
        task_group() as group,
    ):
        listening = asyncio.Barrier(3)
        desk = SubmissionHandler(broker, announcer, clock, secret, listening)
        group.create_task(desk.receive(topics.SUBMIT, "server-inbox"), name="submissions")
        named = topics.submission(topics.ANY)
        group.create_task(desk.receive(named, "server-submissions"), name="submissions with an id")
        context = JobContext(broker, announcer, clients, bridges, learning, clock, secret)
        await _run_jobs(context, group, listening, on_ready)


async def _run_jobs(
    context: JobContext, group: asyncio.TaskGroup, listening: asyncio.Barrier, on_ready: Callable[[], None]
) -> None:
    """Run each job that has not ended, from the moment its record appears."""
    running: dict[str, asyncio.Task[None]] = {}
    async with context.broker.watch(topics.job_record(topics.ANY)) as values:
        await listening.wait()
        on_ready()
        async for value in values:
            record = _record(value)
            if record is not None and not record.is_over and (record.id not in running or running[record.id].done()):
                running[record.id] = group.create_task(_run_job(record.id, context), name=f"job {record.id}")


def _record(value: Value | Deleted) -> JobRecord | None:
    if isinstance(value, Deleted):
        return None
    try:
        return codec.decode(JobRecord, value.payload)
    except DecodeError as exc:
        log.warning("unreadable record of a job", topic=value.topic, error=str(exc))
        return None


async def _run_job(job: str, context: JobContext) -> None:
    structlog.contextvars.bind_contextvars(job=job)
    try:
        await jobs.run(job, context)
    except Disconnected:
        # No fault of the job's: it goes on from its record when the broker is back and the server starts over.
        raise
    except SchemaTooNew as exc:
        log.warning("the job is left to the newer server that has moved it", job=job, error=str(exc))
    except Exception as exc:
        # The outermost loop of a job: whatever is wrong with it must not take the other jobs down.
        log.exception("the job stopped because of an error of ours", job=job)
        await _fail(job, context, f"{type(exc).__name__}: {exc}")


async def _fail(job: str, context: JobContext, reason: str) -> None:
    found = await context.broker.get(topics.job_record(job))
    record = None if found is None else _record(found)
    if found is None or record is None or record.has_ended:
        # A job has one end, also where what comes after it went wrong.
        return
    failed = job_record.as_failed(record, f"internal error: {reason}")
    await context.broker.put(topics.job_record(job), codec.encode(failed), revision=found.revision)
    await jobs.run(job, context)
