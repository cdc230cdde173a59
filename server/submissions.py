"""Job messages become records: validated, given an id, accepted or refused with a reason."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from broker import topics
from broker.base import Broker, Delivery
from broker.errors import BadTopic, Conflict, CorruptPayload, PayloadTooLarge, StorageFull
from broker.messages import cloudevents, codec, job, progress
from broker.messages.errors import DecodeError, JobError
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from server.announcer import Announcer
from server.job_store import keep_secret

log = structlog.get_logger(__name__)

MAX_BYTES = 1 << 20
"""No job message is larger."""


class SubmissionReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a requester gets back: the job's id, or the error and the field that it is about.

    Attributes:
        job: the job's id; empty: none was given.
        error: why the job was refused; empty: it was accepted.
        field: the field of the job that the error is about; empty: all of it.
    """

    job: str = ""
    error: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class SubmissionHandler:
    """Where submissions are handled.

    Attributes:
        broker: where they come from.
        announcer: tells the world.
        clock: seconds since the epoch.
        secret: makes an unguessable text.
        listening: passed by each of the server's subscriptions as soon as it hears; None: nobody waits for that.
    """

    broker: Broker
    announcer: Announcer
    clock: Callable[[], float]
    secret: Callable[[], str]
    listening: asyncio.Barrier | None = None

    async def receive(self, topic_filter: str, durable: str) -> None:
        """Handle submissions for ever."""
        async with self.broker.subscribe(topic_filter, durable=durable) as deliveries:
            if self.listening is not None:
                await self.listening.wait()
            async for delivery in deliveries:
                answer = await self.handle(delivery)
                await delivery.answer(codec.encode(answer))
                await delivery.ack()

    async def handle(self, delivery: Delivery) -> SubmissionReply:
        """Accept a job or refuse it; the same delivery again has the same outcome."""
        payload = b""
        try:
            topics.parse_submission(delivery.topic)
            payload = await delivery.read(at_most=MAX_BYTES)
            wanted = job.from_json(cloudevents.unwrap(payload))
            return await self._accept(_id_for(delivery, payload, wanted), wanted)
        except JobError as exc:
            return await self._refuse(_id_for(delivery, payload, None), exc)
        except BadTopic as exc:
            return await self._refuse(_made_up("job", delivery, payload), JobError("id", exc.name, exc.rule))
        except (DecodeError, CorruptPayload, PayloadTooLarge, StorageFull) as exc:
            return await self._refuse(_id_for(delivery, payload, None), JobError("", None, str(exc)))

    async def _accept(self, job_id: str, wanted: Job) -> SubmissionReply:
        if await self.broker.get(topics.job_record(job_id)) is not None:
            return await self._taken(job_id, wanted)
        record = JobRecord(id=job_id, job=wanted, created_s=self.clock())
        # Before the record: a job whose record is there has the secret that every server will find.
        await keep_secret(self.broker, job_id, self.secret)
        try:
            await self.broker.put(topics.job_record(job_id), codec.encode(record), revision=0)
        except Conflict:
            return await self._taken(job_id, wanted)
        log.info("job accepted", job=job_id)
        return SubmissionReply(job=job_id)

    async def _taken(self, job_id: str, wanted: Job) -> SubmissionReply:
        """A repetition is accepted as what it is; another job under the same id is not."""
        found = await self.broker.get(topics.job_record(job_id))
        try:
            if found is not None and codec.decode(JobRecord, found.payload).job == wanted:
                return SubmissionReply(job=job_id)
        except DecodeError as exc:
            # Said to the requester alone: the job that has this id goes on.
            log.warning("unreadable record of a job", job=job_id, error=str(exc))
            return SubmissionReply(error=f"id = {job_id!r}: {exc}", field="id")
        log.warning("another job has this id", job=job_id)
        return SubmissionReply(error=f"id = {job_id!r}: another job has this id; choose another, or none", field="id")

    async def _refuse(self, job_id: str, error: JobError) -> SubmissionReply:
        log.warning("job refused", job=job_id, field=error.field, reason=str(error))
        event = progress.JobRejected(field=error.field, value=repr(error.value), reason=str(error))
        await self.announcer.announce_and_wait(job_id, event)
        return SubmissionReply(job=job_id, error=str(error), field=error.field)


def _id_for(delivery: Delivery, payload: bytes, wanted: Job | None) -> str:
    """The submitter's id: in the topic, in the job, or else one that a second delivery gets too."""
    named = topics.parse_submission(delivery.topic).job
    if named is not None:
        return named
    if wanted is not None and wanted.id is not None:
        return wanted.id
    return _made_up("job" if wanted is None else wanted.name, delivery, payload)


def _made_up(name: str, delivery: Delivery, payload: bytes) -> str:
    digest = hashlib.sha256(payload + str(delivery.sequence).encode()).hexdigest()
    return f"{name[:32]}-{digest[:7]}"
