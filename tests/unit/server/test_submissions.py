"""Submitted jobs: accepted once under one id, or refused with a reason. No message stops the handler."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery
from broker.errors import StorageFull
from broker.messages import codec, job_file, progress
from broker.messages.cloudevents import Envelope
from broker.messages.cloudevents import encode as as_event
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobFailed, JobRejected, Progress
from server.announcer import Announcer, open_announcer
from server.submissions import MAX_BYTES, SubmissionHandler, SubmissionReply

DEMO = Job(name="demo", seed=5)
PAYLOAD = msgspec.json.encode(DEMO)
SECRETS = (f"secret-{number}" for number in itertools.count(1))


@dataclass
class Harness:
    """A handler with its own broker."""

    bus: Broker
    announcer: Announcer
    handler: SubmissionHandler

    async def deliver(self, payload: bytes, topic: str = topics.SUBMIT) -> Delivery:
        # As a program of another make publishes, which knows no limit.
        receipt = await self.bus._publish(topic, payload, None)
        async with self.bus.subscribe(topic) as deliveries:
            async for delivery in deliveries:
                if delivery.sequence == receipt.sequence:
                    return delivery
        raise AssertionError(topic)

    async def submit(self, payload: bytes, topic: str = topics.SUBMIT) -> SubmissionReply:
        return await self.handler.handle(await self.deliver(payload, topic))

    async def record(self, job_id: str) -> tuple[JobRecord, int]:
        value = await self.bus.get(topics.job_record(job_id))
        assert value is not None
        return codec.decode(JobRecord, value.payload), value.revision

    async def secret(self, job_id: str) -> bytes | None:
        value = await self.bus.get(topics.secret(job_id))
        return None if value is None else value.payload

    async def jobs(self) -> list[str]:
        return [topic.split(".")[2] for topic in await self.bus.snapshot(topics.job_record(topics.ANY))]

    async def announced(self) -> list[Progress]:
        """All events that were announced so far."""
        self.announcer.announce("end", JobFailed(reason=""))
        messages: list[Progress] = []
        async with self.bus.subscribe(topics.job_progress(topics.ANY)) as deliveries:
            async for delivery in deliveries:
                messages.append(progress.decode(await delivery.read()))
                if messages[-1].job == "end":
                    break
        return messages[:-1]


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with asyncio.timeout(10), broker.connect("memory://submissions") as bus, open_announcer(bus) as announcer:
        yield Harness(bus, announcer, SubmissionHandler(bus, announcer, lambda: 1_700_000_000.5, lambda: next(SECRETS)))


async def test_a_job_is_accepted_and_recorded(harness: Harness) -> None:
    reply = await harness.submit(PAYLOAD)
    submitted = job_file.from_json(PAYLOAD)
    assert reply == SubmissionReply(job=reply.job)
    assert reply.job.startswith("demo-")
    record, _ = await harness.record(reply.job)
    assert record == JobRecord(id=reply.job, job=submitted, created_s=1_700_000_000.5, epoch=f"{1_700_000_000_500:x}")
    assert await harness.announced() == [], "who runs the job announces it"


async def test_a_job_has_its_secret_before_it_has_a_record(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    put, written = harness.bus.put, list[str]()

    async def recording_put(topic: str, payload: bytes, *, revision: int | None = None) -> int:
        written.append(topic)
        return await put(topic, payload, revision=revision)

    monkeypatch.setattr(harness.bus, "put", recording_put)
    await harness.submit(PAYLOAD, topics.submission("mine-1"))
    assert written == ["fl.secrets.mine-1", "fl.rounds.mine-1"]


async def test_a_server_that_takes_a_submission_over_keeps_the_first_secret(harness: Harness) -> None:
    """The first server wrote the secret, and crashed before it wrote the record."""
    await harness.bus.put(topics.secret("mine-1"), b"of the one that went down")
    assert await harness.submit(PAYLOAD, topics.submission("mine-1")) == SubmissionReply(job="mine-1")
    assert await harness.secret("mine-1") == b"of the one that went down"


async def test_the_secret_is_nowhere_that_people_read(harness: Harness) -> None:
    reply = await harness.submit(PAYLOAD)
    secret, value = await harness.secret(reply.job), await harness.bus.get(topics.job_record(reply.job))
    assert secret is not None
    assert value is not None
    assert secret not in value.payload
    assert secret.decode() not in str(reply)


async def test_a_repetition_after_the_end_makes_no_new_secret(harness: Harness) -> None:
    topic = topics.submission("mine-1")
    await harness.submit(PAYLOAD, topic)
    await harness.bus.purge(topics.secret("mine-1"))  # as at a job's end
    assert await harness.submit(PAYLOAD, topic) == SubmissionReply(job="mine-1")
    assert await harness.secret("mine-1") is None


async def test_a_bare_object_is_a_job(harness: Harness) -> None:
    reply = await harness.submit(b"{}")
    assert reply.job.startswith("job-")
    assert (await harness.record(reply.job))[0].job == job_file.from_dict({})


async def test_the_same_delivery_twice_is_one_job(harness: Harness) -> None:
    delivery = await harness.deliver(PAYLOAD)
    first = await harness.handler.handle(delivery)
    before = await harness.record(first.job)
    assert await harness.handler.handle(delivery) == first
    assert await harness.record(first.job) == before
    assert await harness.jobs() == [first.job]


async def test_a_repeated_submission_finds_its_job_after_the_job_s_record_changed(harness: Harness) -> None:
    delivery = await harness.deliver(PAYLOAD)
    reply = await harness.handler.handle(delivery)
    record, revision = await harness.record(reply.job)
    moved = msgspec.structs.replace(record, phase="running", round=4)
    await harness.bus.put(topics.job_record(reply.job), codec.encode(moved), revision=revision)
    assert await harness.handler.handle(delivery) == reply
    assert (await harness.record(reply.job))[0] == moved


async def test_the_same_job_submitted_twice_is_two_jobs(harness: Harness) -> None:
    replies = [await harness.submit(PAYLOAD) for _ in range(2)]
    assert replies[0].job != replies[1].job
    assert set(await harness.jobs()) == {reply.job for reply in replies}


async def test_an_id_is_taken_from_the_topic(harness: Harness) -> None:
    assert await harness.submit(PAYLOAD, topics.submission("mine-1")) == SubmissionReply(job="mine-1")
    assert (await harness.record("mine-1"))[0].id == "mine-1"


async def test_an_id_is_taken_from_the_job(harness: Harness) -> None:
    assert await harness.submit(b'{"id": "mine-2"}') == SubmissionReply(job="mine-2")


async def test_a_long_name_still_gives_an_id(harness: Harness) -> None:
    reply = await harness.submit(json.dumps({"name": "x" * 40}).encode())
    assert topics.checked_id(reply.job) == reply.job
    assert len(reply.job) == 40


async def test_an_id_of_another_job_is_refused_and_that_job_is_left_alone(harness: Harness) -> None:
    topic = topics.submission("mine-1")
    await harness.submit(PAYLOAD, topic)
    before = await harness.record("mine-1")
    reply = await harness.submit(b'{"seed": 6}', topic)
    assert (reply.job, reply.field) == ("", "id")
    assert reply.error == "id = 'mine-1': another job has this id; choose another, or none"
    assert await harness.record("mine-1") == before
    assert await harness.announced() == [], "that job's watchers would take it for their own"


async def test_an_id_whose_record_is_unreadable_is_refused(harness: Harness) -> None:
    await harness.bus.put(topics.job_record("mine-1"), b"garbage")
    reply = await harness.submit(PAYLOAD, topics.submission("mine-1"))
    assert "not a valid JobRecord" in reply.error


async def test_a_job_may_come_as_a_cloud_event(harness: Harness) -> None:
    event = as_event(Envelope("7", "/elsewhere", "job", 1.0), DEMO)
    reply = await harness.submit(event)
    assert (await harness.record(reply.job))[0].job == job_file.from_json(PAYLOAD)


async def test_a_bad_field_is_refused_with_its_name_and_announced(harness: Harness) -> None:
    reply = await harness.submit(b'{"cohort": {"clients": 0}}', topics.submission("mine-1"))
    reason = "cohort.clients = 0: expected a whole number >= 1"
    assert reply == SubmissionReply(job="mine-1", error=reason, field="cohort.clients")
    (message,) = await harness.announced()
    assert (message.job, message.event) == ("mine-1", JobRejected(field="cohort.clients", value="0", reason=reason))
    assert await harness.jobs() == []


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"garbage",
    "no UTF-8": b'{"name": "\xff"}',
    "a list": b"[1, 2]",
    "a null": b"null",
    "too many brackets": b"[" * 100_000,
    "nested arguments": b'{"model":{"args":{"a":' + b"[" * 400 + b"]" * 400 + b"}}}",
    "a null among the arguments": b'{"model":{"args":{"a":[null]}}}',
    "no CloudEvent": b'{"specversion": "1.0", "data": {}}',
    "a CloudEvent of garbage": as_event(Envelope("7", "/x", "job", 1.0), [1]),
    "an unusable id": b'{"id": "UPPER.case"}',
    "an unknown key": b'{"chort": {}}',
    "an overlong value": b'{"name": "' + b"\\\\" * 100_000 + b'"}',
    "a key without end": b'{"' + b"x" * 900_000 + b'": 1}',
    "more than a job may have": b'{"name": "' + b"x" * MAX_BYTES + b'"}',
    "more than one message may have": b'{"name": "' + b"x" * (5 << 20) + b'"}',
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_is_refused_announced_and_leaves_no_job(harness: Harness, what: str) -> None:
    delivery = await harness.deliver(GARBAGE[what])
    replies = [await harness.handler.handle(delivery) for _ in range(2)]
    assert replies[0] == replies[1]
    assert replies[0].error
    assert len(msgspec.json.encode(replies[0])) < 1000
    events = await harness.announced()
    assert {(each.job, type(each.event)) for each in events} == {(replies[0].job, JobRejected)}
    assert all(len(progress.encode(each)) < 10_000 for each in events)
    assert await harness.jobs() == []
    assert (await harness.submit(PAYLOAD)).error == ""


@pytest.mark.parametrize("payload", [PAYLOAD, b"garbage"])
@pytest.mark.parametrize("name", ["UPPER", "with space", "x" * 41, "ümlaut", "$SYS"])
async def test_a_topic_with_an_invalid_id_is_refused(harness: Harness, name: str, payload: bytes) -> None:
    reply = await harness.submit(payload, f"fl.jobs.{name}.submit")
    assert (reply.field, topics.ID_RULE in reply.error) == ("id", True)
    (message,) = await harness.announced()
    assert (message.job, type(message.event)) == (reply.job, JobRejected)
    assert await harness.jobs() == []


@dataclass
class Request(Delivery):
    """A delivery whose requester waits for the reply."""

    topic: str
    payload: bytes
    sent: list[str] = field(default_factory=list)
    sequence: int = 1

    async def read(self, *, at_most: int | None = None) -> bytes:
        assert at_most == MAX_BYTES
        return self.payload

    async def answer(self, payload: bytes) -> None:
        self.sent.append(payload.decode())

    async def ack(self) -> None:
        self.sent.append("acknowledged")


async def test_each_requester_is_answered_and_then_the_delivery_is_acknowledged(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [
        Request(topics.submission("a-1"), PAYLOAD),
        Request(topics.submission("a-2"), b'{"seed": -1}'),
        Request(topics.submission("a-1"), b'{"seed": 9}'),
    ]

    @contextlib.asynccontextmanager
    async def subscribe(_: str, **options: Any) -> AsyncIterator[AsyncIterator[Delivery]]:
        assert options["durable"] == "submissions"
        yield each(iter(requests))

    monkeypatch.setattr(harness.bus, "subscribe", subscribe)
    await harness.handler.receive("fl.jobs.*.submit", "submissions")
    assert [request.sent for request in requests] == [
        ['{"job":"a-1"}', "acknowledged"],
        ['{"job":"a-2","error":"seed = -1: expected a whole number >= 0","field":"seed"}', "acknowledged"],
        ['{"error":"id = \'a-1\': another job has this id; choose another, or none","field":"id"}', "acknowledged"],
    ]


async def each(deliveries: Iterator[Delivery]) -> AsyncIterator[Delivery]:
    for delivery in deliveries:
        yield delivery


async def test_submissions_are_handled_one_after_the_other_and_none_twice(harness: Harness) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            working = group.create_task(harness.handler.receive("fl.jobs.*.submit", "handler"), name="handler")
            async with harness.bus.watch(topics.job_record("m-1")) as values:
                await harness.bus.publish(topics.submission("m-1"), PAYLOAD)
                await anext(values)
            working.cancel()
    assert await harness.jobs() == ["m-1"]


async def test_a_broker_without_room_refuses_the_job_and_not_the_server(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(topic: str, *_: object, **__: object) -> int:
        raise StorageFull(topic, "maximum bytes exceeded")

    monkeypatch.setattr(harness.bus, "put", full)
    reply = await harness.submit(PAYLOAD)
    assert "no room" in reply.error
    assert [message.event.what for message in await harness.announced()] == ["job.rejected"]
