"""Job messages: accepted once under one id, or refused with a reason; whatever is sent, the desk goes on."""

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
from broker.base import Broker, Delivery
from broker.errors import StorageFull
from broker.messages import codec, job, progress
from broker.messages.cloudevents import Envelope
from broker.messages.cloudevents import encode as as_event
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobFailed, JobRejected, Progress
from server.announcer import Announcer, announcing
from server.submissions import MAX_BYTES, SubmissionHandler, SubmissionReply

DEMO = Job(name="demo", seed=5)
PAYLOAD = msgspec.json.encode(DEMO)
SECRETS = (f"secret-{number}" for number in itertools.count(1))


@dataclass
class Office:
    """A desk on a broker of its own."""

    bus: Broker
    announcer: Announcer
    desk: SubmissionHandler

    async def deliver(self, payload: bytes, topic: str = topics.SUBMIT) -> Delivery:
        receipt = await self.bus.publish(topic, payload)
        async with self.bus.subscribe(topic) as deliveries:
            async for delivery in deliveries:
                if delivery.sequence == receipt.sequence:
                    return delivery
        raise AssertionError(topic)

    async def submit(self, payload: bytes, topic: str = topics.SUBMIT) -> SubmissionReply:
        return await self.desk.handle(await self.deliver(payload, topic))

    async def record(self, job_id: str) -> tuple[JobRecord, int]:
        found = await self.bus.get(topics.job_record(job_id))
        assert found is not None
        assert found.payload is not None
        return codec.decode(JobRecord, found.payload), found.revision

    async def secret(self, job_id: str) -> bytes | None:
        found = await self.bus.get(topics.secret(job_id))
        return None if found is None else found.payload

    async def jobs(self) -> list[str]:
        return [topic.split(".")[2] for topic in await self.bus.snapshot(topics.job_record(topics.ANY))]

    async def said(self) -> list[Progress]:
        """Everything that was announced so far."""
        self.announcer.announce("end", JobFailed(reason=""))
        found: list[Progress] = []
        async with self.bus.subscribe(topics.job_progress(topics.ANY)) as deliveries:
            async for delivery in deliveries:
                found.append(progress.decode(await delivery.read()))
                if found[-1].job == "end":
                    break
        return found[:-1]


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with asyncio.timeout(10), broker.connect("memory://submissions") as bus, announcing(bus) as announcer:
        yield Office(bus, announcer, SubmissionHandler(bus, announcer, lambda: 1_700_000_000.5, lambda: next(SECRETS)))


async def test_a_job_is_accepted_and_recorded(office: Office) -> None:
    answer = await office.submit(PAYLOAD)
    wanted = job.from_json(PAYLOAD)
    assert answer == SubmissionReply(job=answer.job)
    assert answer.job.startswith("demo-")
    record, _ = await office.record(answer.job)
    assert record == JobRecord(id=answer.job, job=wanted, created_s=1_700_000_000.5)
    assert await office.said() == [], "who runs the job announces it"


async def test_a_job_has_its_secret_before_it_has_a_record(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    put, written = office.bus.put, list[str]()

    async def noted(topic: str, payload: bytes, *, revision: int | None = None) -> int:
        written.append(topic)
        return await put(topic, payload, revision=revision)

    monkeypatch.setattr(office.bus, "put", noted)
    await office.submit(PAYLOAD, topics.submission("mine-1"))
    assert written == ["fl.secrets.mine-1", "fl.rounds.mine-1"]


async def test_a_server_that_takes_a_submission_over_keeps_the_first_secret(office: Office) -> None:
    """The other one had written the secret, and went down before it wrote the record."""
    await office.bus.put(topics.secret("mine-1"), b"of the one that went down")
    assert await office.submit(PAYLOAD, topics.submission("mine-1")) == SubmissionReply(job="mine-1")
    assert await office.secret("mine-1") == b"of the one that went down"


async def test_the_secret_is_nowhere_that_people_read(office: Office) -> None:
    answer = await office.submit(PAYLOAD)
    secret, value = await office.secret(answer.job), await office.bus.get(topics.job_record(answer.job))
    assert secret is not None
    assert value is not None
    assert value.payload is not None
    assert secret not in value.payload
    assert secret.decode() not in str(answer)


async def test_a_repetition_after_the_end_makes_no_new_secret(office: Office) -> None:
    topic = topics.submission("mine-1")
    await office.submit(PAYLOAD, topic)
    await office.bus.purge(topics.secret("mine-1"))  # as at a job's end
    assert await office.submit(PAYLOAD, topic) == SubmissionReply(job="mine-1")
    assert await office.secret("mine-1") is None


async def test_a_bare_object_is_a_job(office: Office) -> None:
    answer = await office.submit(b"{}")
    assert answer.job.startswith("job-")
    assert (await office.record(answer.job))[0].job == job.from_dict({})


async def test_the_same_delivery_twice_is_one_job(office: Office) -> None:
    delivery = await office.deliver(PAYLOAD)
    first = await office.desk.handle(delivery)
    before = await office.record(first.job)
    assert await office.desk.handle(delivery) == first
    assert await office.record(first.job) == before
    assert await office.jobs() == [first.job]


async def test_a_repetition_finds_its_job_though_it_has_moved_on(office: Office) -> None:
    delivery = await office.deliver(PAYLOAD)
    answer = await office.desk.handle(delivery)
    record, revision = await office.record(answer.job)
    moved = msgspec.structs.replace(record, phase="running", round=4)
    await office.bus.put(topics.job_record(answer.job), codec.encode(moved), revision=revision)
    assert await office.desk.handle(delivery) == answer
    assert (await office.record(answer.job))[0] == moved


async def test_the_same_job_submitted_twice_is_two_jobs(office: Office) -> None:
    answers = [await office.submit(PAYLOAD) for _ in range(2)]
    assert answers[0].job != answers[1].job
    assert set(await office.jobs()) == {answer.job for answer in answers}


async def test_an_id_is_taken_from_the_topic(office: Office) -> None:
    assert await office.submit(PAYLOAD, topics.submission("mine-1")) == SubmissionReply(job="mine-1")
    assert (await office.record("mine-1"))[0].id == "mine-1"


async def test_an_id_is_taken_from_the_job(office: Office) -> None:
    assert await office.submit(b'{"id": "mine-2"}') == SubmissionReply(job="mine-2")


async def test_a_long_name_still_gives_an_id(office: Office) -> None:
    answer = await office.submit(json.dumps({"name": "x" * 40}).encode())
    assert topics.checked_id(answer.job) == answer.job
    assert len(answer.job) == 40


async def test_an_id_of_another_job_is_refused_and_that_job_is_left_alone(office: Office) -> None:
    topic = topics.submission("mine-1")
    await office.submit(PAYLOAD, topic)
    before = await office.record("mine-1")
    answer = await office.submit(b'{"seed": 6}', topic)
    assert (answer.job, answer.field) == ("", "id")
    assert answer.error == "id = 'mine-1': another job has this id; choose another, or none"
    assert await office.record("mine-1") == before
    assert await office.said() == [], "that job's watchers would take it for their own"


async def test_an_id_whose_record_is_unreadable_is_refused(office: Office) -> None:
    await office.bus.put(topics.job_record("mine-1"), b"garbage")
    answer = await office.submit(PAYLOAD, topics.submission("mine-1"))
    assert "not a valid JobRecord" in answer.error


async def test_a_job_may_come_as_a_cloud_event(office: Office) -> None:
    event = as_event(Envelope("7", "/elsewhere", "job", 1.0), DEMO)
    answer = await office.submit(event)
    assert (await office.record(answer.job))[0].job == job.from_json(PAYLOAD)


async def test_a_bad_field_is_refused_with_its_name_and_announced(office: Office) -> None:
    answer = await office.submit(b'{"cohort": {"clients": 0}}', topics.submission("mine-1"))
    reason = "cohort.clients = 0: expected a whole number >= 1"
    assert answer == SubmissionReply(job="mine-1", error=reason, field="cohort.clients")
    (said,) = await office.said()
    assert (said.job, said.event) == ("mine-1", JobRejected(field="cohort.clients", value="0", reason=reason))
    assert await office.jobs() == []


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
    "more than a job may have": b'{"name": "' + b"x" * MAX_BYTES + b'"}',
    "more than one message may have": b'{"name": "' + b"x" * (5 << 20) + b'"}',
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_is_refused_announced_and_leaves_no_job(office: Office, what: str) -> None:
    delivery = await office.deliver(GARBAGE[what])
    answers = [await office.desk.handle(delivery) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].error
    assert len(msgspec.json.encode(answers[0])) < 1000
    said = await office.said()
    assert {(each.job, type(each.event)) for each in said} == {(answers[0].job, JobRejected)}
    assert await office.jobs() == []
    assert (await office.submit(PAYLOAD)).error == ""


@pytest.mark.parametrize("payload", [PAYLOAD, b"garbage"])
@pytest.mark.parametrize("name", ["UPPER", "with space", "x" * 41, "ümlaut", "$SYS"])
async def test_a_topic_whose_id_is_none_is_refused(office: Office, name: str, payload: bytes) -> None:
    answer = await office.submit(payload, f"fl.jobs.{name}.submit")
    assert (answer.field, topics.ID_RULE in answer.error) == ("id", True)
    (said,) = await office.said()
    assert (said.job, type(said.event)) == (answer.job, JobRejected)
    assert await office.jobs() == []


@dataclass
class Asked(Delivery):
    """A delivery whose requester waits for the answer."""

    topic: str
    payload: bytes
    heard: list[str] = field(default_factory=list)
    sequence: int = 1

    async def read(self, *, at_most: int | None = None) -> bytes:
        assert at_most == MAX_BYTES
        return self.payload

    async def answer(self, payload: bytes) -> None:
        self.heard.append(payload.decode())

    async def ack(self) -> None:
        self.heard.append("acknowledged")


async def test_each_requester_is_answered_and_then_the_delivery_is_acknowledged(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        Asked(topics.submission("a-1"), PAYLOAD),
        Asked(topics.submission("a-2"), b'{"seed": -1}'),
        Asked(topics.submission("a-1"), b'{"seed": 9}'),
    ]

    @contextlib.asynccontextmanager
    async def subscribe(_: str, **how: Any) -> AsyncIterator[AsyncIterator[Delivery]]:
        assert how["durable"] == "submissions"
        yield each(iter(asked))

    monkeypatch.setattr(office.bus, "subscribe", subscribe)
    await office.desk.receive("fl.jobs.*.submit", "submissions")
    assert [one.heard for one in asked] == [
        ['{"job":"a-1"}', "acknowledged"],
        ['{"job":"a-2","error":"seed = -1: expected a whole number >= 0","field":"seed"}', "acknowledged"],
        ['{"error":"id = \'a-1\': another job has this id; choose another, or none","field":"id"}', "acknowledged"],
    ]


async def each(deliveries: Iterator[Delivery]) -> AsyncIterator[Delivery]:
    for delivery in deliveries:
        yield delivery


async def test_the_desk_handles_one_submission_after_the_other_and_none_twice(office: Office) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            working = group.create_task(office.desk.receive("fl.jobs.*.submit", "desk"), name="desk")
            async with office.bus.watch(topics.job_record("m-1")) as values:
                await office.bus.publish(topics.submission("m-1"), PAYLOAD)
                await anext(values)
            working.cancel()
    assert await office.jobs() == ["m-1"]


async def test_a_broker_without_room_refuses_the_job_and_not_the_server(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(topic: str, *_: object, **__: object) -> int:
        raise StorageFull(topic, "maximum bytes exceeded")

    monkeypatch.setattr(office.bus, "put", full)
    answer = await office.submit(PAYLOAD)
    assert "no room" in answer.error
    assert [said.event.what for said in await office.said()] == ["job.rejected"]
