"""The FL server: accepts jobs, and runs every job whose record has not ended."""

import asyncio
import functools
import secrets
import time
from collections.abc import Callable
from typing import Final

import structlog

from broker import topics
from broker.base import Broker
from broker.deliveries import Deleted, Value
from broker.errors import Conflict, Disconnected
from broker.messages import codec, job_record
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.job_record import JobRecord
from broker.support import loggers
from broker.support.tasks import task_group
from server import jobs
from server.announcer import open_announcer
from server.held import Held
from server.housekeeping import open_housekeeper
from server.job_context import JobContext
from server.learning import Learning
from server.presence import open_presence
from server.registry import open_registry
from server.retention import Retention
from server.room import until_there_is_room
from server.submissions import SubmissionHandler

log = loggers.get_logger(__name__)

KEEP: Final = Retention()
"""The finished jobs that a server keeps if its operator says nothing."""


def random_secret() -> str:
    """Return 256 random bits as text."""
    return secrets.token_hex(32)


async def serve(
    broker: Broker,
    learning: Learning,
    *,
    clock: Callable[[], float] = time.time,
    secret: Callable[[], str] = random_secret,
    keep: Retention = KEEP,
    held: Held | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Run the FL server until it is cancelled. Jobs that ran before a crash continue from their records.

    Args:
        broker: delivers jobs and keeps records, models and updates.
        learning: builds and evaluates models.
        clock: seconds since the epoch.
        secret: returns an unguessable text.
        keep: which finished jobs are kept.
        held: what this server holds from before a lost connection; None: nothing.
        on_ready: called when the server accepts jobs.

    Raises:
        Disconnected: the broker was unreachable for longer than a call may take; call `serve` again.
    """
    held = Held() if held is None else held
    await held.put_back(broker)
    async with (
        open_announcer(broker, clock, held) as announcer,
        open_registry(broker) as clients,
        open_presence(broker) as bridges,
        open_housekeeper(broker, keep, clock, held) as housekeeper,
        task_group() as group,
    ):
        subscribed = asyncio.Barrier(3)
        handler = SubmissionHandler(broker, announcer, clock, secret, subscribed, held)
        group.create_task(handler.receive(topics.SUBMIT, "server-inbox"), name="submissions")
        with_id = topics.submission(topics.ANY)
        group.create_task(handler.receive(with_id, "server-submissions"), name="submissions with an id")
        context = JobContext(broker, announcer, clients, bridges, learning, clock, secret, held)
        running: dict[str, asyncio.Task[None]] = {}
        async with broker.watch(topics.job_record(topics.ANY)) as values:
            await subscribed.wait()
            if on_ready is not None:
                on_ready()
            async for value in values:
                job = value.topic.rpartition(".")[2]
                if isinstance(value, Deleted):
                    held.forget(job)
                if job in running and not running[job].done():
                    continue  # it reads its record itself, which may be large
                record = _decode_record(value)
                if record is not None and not record.is_finished:
                    running[record.id] = group.create_task(_run_job(record.id, context), name=f"job {record.id}")
                    running[record.id].add_done_callback(lambda _: housekeeper.job_ended())


async def _run_job(job: str, context: JobContext) -> None:
    """Run a job. An unexpected error fails this job alone."""
    structlog.contextvars.bind_contextvars(job=job)
    try:
        await jobs.run(job, context)
    except Disconnected:
        # Not the job's fault: it continues from its record when the broker is back and the server starts again.
        raise
    except SchemaTooNew as exc:
        log.warning("a newer server changed the record; leaving the job to it", job=job, error=str(exc))
    except Exception as exc:
        # The outermost loop of a job: its errors must not stop the other jobs.
        log.exception("the job stopped because of an error of ours", job=job)
        await _fail_job(job, context, f"internal error: {type(exc).__name__}: {exc}")


async def _fail_job(job: str, context: JobContext, reason: str) -> None:
    value = await context.broker.get(topics.job_record(job))
    record = None if value is None else _decode_record(value)
    if value is None or record is None or record.has_ended:
        # A job ends once, even if an error follows its end.
        return
    failed = job_record.as_failed(record, reason)
    try:
        put = functools.partial(context.broker.put, topics.job_record(job), codec.encode(failed))
        await until_there_is_room(functools.partial(put, revision=value.revision))
    except Conflict:
        log.warning("another server changed the job's record, and goes on with the job", job=job)
        return
    await jobs.run(job, context)


def _decode_record(value: Value | Deleted) -> JobRecord | None:
    """Decode a job's record; None if it is deleted or unreadable."""
    if isinstance(value, Deleted):
        return None
    try:
        return codec.decode(JobRecord, value.payload)
    except DecodeError as exc:
        log.warning("unreadable record of a job", topic=value.topic, error=str(exc))
        return None
