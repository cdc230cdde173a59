"""Validates submitted jobs, gives each an id, and writes its record or refuses it with a reason."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery
from broker.errors import BadTopic, Conflict, CorruptPayload, PayloadTooLarge, StorageFull
from broker.messages import cloudevents, codec, job_file, progress
from broker.messages.errors import DecodeError, JobError
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.support import loggers, texts
from server import room
from server.announcer import Announcer
from server.held import Held
from server.job_store import get_or_create_secret

log = loggers.get_logger(__name__)

MAX_BYTES = 1 << 20
"""Limit of a job message's size."""

MAX_ID = 200
"""Longest id of a submission's event that is repeated. Characters."""


class SubmissionReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reply to a submission: the job's id, or the error and the field that it is about.

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
    """Accepts or refuses submitted jobs.

    Attributes:
        broker: delivers the submissions and keeps the records.
        announcer: publishes progress events.
        clock: seconds since the epoch.
        make_secret: returns an unguessable text.
        subscribed: barrier that each subscription of the server passes once it is active; None: no barrier.
        held: gets the records.
    """

    broker: Broker
    announcer: Announcer
    clock: Callable[[], float]
    make_secret: Callable[[], str]
    subscribed: asyncio.Barrier | None = None
    held: Held = field(default_factory=Held)

    async def receive(self, topic_filter: str, durable: str) -> None:
        """Handle submissions until cancelled.

        Args:
            topic_filter: selects the submissions.
            durable: name of the durable subscription.
        """
        async with self.broker.subscribe(topic_filter, durable=durable) as deliveries:
            if self.subscribed is not None:
                await self.subscribed.wait()
            async for delivery in deliveries:
                reply = await self.handle(delivery)
                await delivery.answer(codec.encode(reply))
                await delivery.ack()

    async def handle(self, delivery: Delivery) -> SubmissionReply:
        """Accept or refuse a job. The same delivery again has the same result."""
        payload = b""
        try:
            topics.parse_submission(delivery.topic)
            payload = await delivery.read(at_most=MAX_BYTES)
            submitted = job_file.from_json(cloudevents.unwrap(payload))
            submission = texts.shortened(cloudevents.id_of(payload), MAX_ID)
            return await self._accept(_job_id(delivery, payload, submitted), submitted, submission)
        except JobError as exc:
            return await self._refuse(delivery, payload, exc)
        except BadTopic as exc:
            return await self._refuse(delivery, payload, JobError("id", exc.name, exc.rule))
        except (DecodeError, CorruptPayload, PayloadTooLarge) as exc:
            return await self._refuse(delivery, payload, JobError("", None, str(exc)))
        except StorageFull as exc:
            # Its event may find no room either, so nobody waits for that.
            return await self._refuse(delivery, payload, JobError("", None, f"{exc}: {room.REMEDY}"), wait=False)

    async def _accept(self, job_id: str, submitted: Job, submission: str) -> SubmissionReply:
        """Write the job's record, unless the id has one."""
        if await self.broker.get(topics.job_record(job_id)) is not None:
            return await self._compare(job_id, submitted)
        now_s = self.clock()
        epoch = f"{int(now_s * 1000):x}"
        record = JobRecord(id=job_id, job=submitted, created_s=now_s, submission=submission, epoch=epoch)
        # The secret is written before the record, so every server finds the secret of a job that has a record.
        await get_or_create_secret(self.broker, job_id, self.make_secret)
        try:
            await self.broker.put(topics.job_record(job_id), codec.encode(record), revision=0)
        except Conflict:
            return await self._compare(job_id, submitted)
        self.held.note_record(record)
        log.info("job accepted", job=job_id)
        return SubmissionReply(job=job_id)

    async def _compare(self, job_id: str, submitted: Job) -> SubmissionReply:
        """Accept a repeated submission; refuse another job with the same id."""
        value = await self.broker.get(topics.job_record(job_id))
        try:
            if value is not None and codec.decode(JobRecord, value.payload).is_of(submitted):
                return SubmissionReply(job=job_id)
        except DecodeError as exc:
            # The reply goes to the requester only, without an event: the job that has this id continues.
            log.warning("unreadable record of a job", job=job_id, error=str(exc))
            return SubmissionReply(error=f"id = {job_id!r}: {exc}", field="id")
        log.warning("another job has this id", job=job_id)
        return SubmissionReply(error=f"id = {job_id!r}: another job has this id; choose another, or none", field="id")

    async def _refuse(
        self, delivery: Delivery, payload: bytes, error: JobError, *, wait: bool = True
    ) -> SubmissionReply:
        """Reply why a job is refused, and announce it, unless the id is that of another job, whose events those are."""
        try:
            job_id = _job_id(delivery, payload, None)
        except BadTopic:
            job_id = _generated_id("job", delivery, payload)
        log.warning("job refused", job=job_id, field=error.field, reason=str(error))
        reply = SubmissionReply(job=job_id, error=str(error), field=error.field)
        if await self.broker.get(topics.job_record(job_id)) is not None:
            return reply
        submission = texts.shortened(cloudevents.id_of(payload), MAX_ID)
        event = progress.JobRejected(field=error.field, value=error.shown, reason=str(error), submission=submission)
        # The sequence tells two refusals under one id apart.
        if wait:
            await self.announcer.announce_and_wait(job_id, event, delivery.sequence)
        else:
            self.announcer.announce(job_id, event, delivery.sequence)
        return reply


def _job_id(delivery: Delivery, payload: bytes, submitted: Job | None) -> str:
    """The id in the topic, else the id in the job, else a generated one."""
    topic_id = topics.parse_submission(delivery.topic).job
    if topic_id is not None:
        return topic_id
    if submitted is not None and submitted.id is not None:
        return submitted.id
    return _generated_id("job" if submitted is None else submitted.name, delivery, payload)


def _generated_id(name: str, delivery: Delivery, payload: bytes) -> str:
    """An id that a second delivery of the same message gets too."""
    digest = hashlib.sha256(payload + str(delivery.sequence).encode()).hexdigest()
    return f"{name[:32]}-{digest[:7]}"
