"""The open rounds of a system that was off have their whole time again."""

from typing import Any

import msgspec

import broker
from broker import topics
from broker.base import Broker
from broker.errors import StorageFull
from broker.messages import codec
from broker.messages.job_record import JobRecord, Member
from broker.messages.round import BlobRef
from server import invitations, round_facts
from server.renewal import renew_open_rounds
from tests.support import fakes

NOW_S = 5000.0
MODEL = BlobRef("fl.models.job-1.x", "ab" * 32, 5)
MEMBERS = tuple(Member(f"c-{n}", "fake", "", f"/shards/c-{n}", 10) for n in (1, 2))
OPEN = JobRecord(
    id="job-1",
    job=fakes.job(cohort={"deadline_s": 60.0}),
    phase="running",
    round=3,
    model=MODEL,
    cohort=MEMBERS,
    opened_s=100.0,
    deadline_s=160.0,
    invited=True,
)


async def renewed(bus: Broker, record: JobRecord) -> JobRecord:
    """The record after a start of the whole system."""
    await bus.put(topics.job_record(record.id), codec.encode(record))
    await renew_open_rounds(bus, lambda: NOW_S)
    value = await bus.get(topics.job_record(record.id))
    assert value is not None
    return codec.decode(JobRecord, value.payload)


async def test_an_open_round_has_its_whole_time_again_and_the_same_start(memory_url: str) -> None:
    async with broker.connect(memory_url) as bus:
        after = await renewed(bus, OPEN)
        assert (after.round, after.cohort, after.opened_s) == (3, MEMBERS, 100.0)
        assert (after.deadline_s, after.renewed_s, after.invited) == (NOW_S + 60.0, NOW_S, False)
        assert round_facts.opened_event(after).resumed
        assert after.changes == OPEN.changes + 1, "of two versions it is the newer one"


async def test_what_is_over_stays_as_it_is(memory_url: str) -> None:
    async with broker.connect(memory_url) as bus:
        await bus.put(topics.job_record("unreadable"), b"{}")
        over: list[dict[str, Any]] = [{"closed": 7}, {"cohort": ()}, {"phase": "cancelled"}, {"phase": "completed"}]
        for number, changes in enumerate(over):
            record = msgspec.structs.replace(OPEN, id=f"job-{number}", **changes)
            assert await renewed(bus, record) == record


async def test_a_system_starts_although_the_broker_has_no_room(memory_url: str) -> None:
    async with broker.connect(memory_url) as bus:
        await bus.put(topics.job_record(OPEN.id), codec.encode(OPEN))
        await invitations.send(bus, OPEN, "nonce", 60.0)

        async def is_full(topic: str, *_: object, **__: object) -> int:
            raise StorageFull(topic, "it is full")

        bus.put = is_full  # type: ignore[method-assign]
        await renew_open_rounds(bus, lambda: NOW_S)
        async with bus.subscribe(topics.platform_tasks("fake"), durable="bridge-fake") as deliveries:
            assert (await anext(deliveries)).topic == topics.task("fake", "c-1"), "its tasks are there"


async def test_the_tasks_are_sent_again_although_the_broker_knows_them(memory_url: str) -> None:
    """Those that it had say for how long they may run since they were published."""
    async with broker.connect(memory_url) as bus:
        await invitations.send(bus, OPEN, "nonce", 60.0)
        after = await renewed(bus, OPEN)
        for _ in range(2):
            await invitations.send(bus, after, "nonce", 60.0, only={"c-2"})
        await bus.publish(topics.task("fake", "c-9"), b"after")
        async with bus.subscribe(topics.platform_tasks("fake"), durable="bridge-fake") as deliveries:
            found = [(await anext(deliveries)).topic for _ in range(2)]
    assert found == [topics.task("fake", "c-2"), topics.task("fake", "c-9")]
