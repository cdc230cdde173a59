"""A server that lived on puts back what the broker's store has lost, and nothing into another store."""

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.memory.broker import MemoryBroker
from broker.messages import codec
from broker.messages.job_record import JobRecord
from broker.messages.progress import Progress, RoundFailed
from broker.messages.round import BlobRef
from broker.messages.state_table import ClientState, StateTable
from fedkeeper.sdk import Client
from server import cohort
from server.held import HELD_S, Change, Held
from server.service import serve
from tests.support import fakes
from tests.support.events import key_of
from tests.support.fakes import FakeLearning, Fleet, running

MODEL = BlobRef(topics.model("demo", "ab" * 32), "ab" * 32, 5)
OURS = JobRecord(id="demo", job=fakes.job(), created_s=1.0, phase="running", model=MODEL, changes=5, done=2, round=2)


@pytest.fixture
async def bus(memory_url: str) -> AsyncIterator[Broker]:
    async with broker.connect(memory_url) as connection:
        yield connection


def holding(record: JobRecord = OURS) -> Held:
    held = Held()
    held.note_record(msgspec.structs.replace(record, model=None))
    held.note_blob("demo", MODEL.topic, b"model")
    held.note_secret("demo", "secret")
    held.note_record(record)
    return held


def holding_states(state: BlobRef) -> tuple[JobRecord, Held]:
    """Return a record that names the state of a client, and what holds it."""
    table = BlobRef(topics.model("demo", "ef" * 32), "ef" * 32, 5)
    record = msgspec.structs.replace(OURS, state_tables=(table,))
    held = holding(record)
    held.note_blob("demo", table.topic, codec.encode(StateTable(2, {"c-1": ClientState({"opt": state})})))
    return record, held


async def put(bus: Broker, **facts: Any) -> None:
    await bus.put(topics.job_record("demo"), codec.encode(msgspec.structs.replace(OURS, **facts)))


async def stored(bus: Broker) -> JobRecord | None:
    value = await bus.get(topics.job_record("demo"))
    return None if value is None else codec.decode(JobRecord, value.payload)


@pytest.mark.parametrize(
    ("theirs", "change", "is_put_back"),
    [
        ({"changes": 3, "done": 1}, "older", True),
        ({"changes": 3, "done": 1}, None, True),
        ({}, "older", False),
        ({"changes": 6}, "older", False),
        ({"changes": 3, "created_s": 2.0}, "older", False),
        (None, "older", True),
        (None, "emptied", True),
        (None, None, False),
        (None, "another", False),
        ({"changes": 3}, "another", False),
    ],
)
async def test_what_the_same_store_has_lost_is_put_back(
    bus: Broker,
    theirs: dict[str, Any] | None,
    change: Change | None,
    is_put_back: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    if theirs is not None:
        await put(bus, **theirs)
    before, held = await stored(bus), holding()
    if change is not None:
        held.store_changed(change)
    await held.put_back(bus)
    if is_put_back:
        assert await stored(bus) == msgspec.structs.replace(OURS, changes=6)
        assert (await bus.get(MODEL.topic)).payload == b"model"  # type: ignore[union-attr]
        assert (await bus.get(topics.secret("demo"))).payload == b"secret"  # type: ignore[union-attr]
    else:
        assert await stored(bus) == before
        assert await bus.get(MODEL.topic) is None


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_record_whose_states_are_lost_is_not_put_back_over_an_older_one(
    bus: Broker,
    *,
    is_there: bool,
) -> None:
    """Only the clients had the states, so no client could go on from our record."""
    state = BlobRef(topics.client_state("demo", "c0", 2, 1, "opt"), "cd" * 32, 5)
    await put(bus, changes=3, done=1)
    if is_there:
        await bus.put(state.topic, b"state")
    _, held = holding_states(state)
    held.note_event(
        Progress("demo", RoundFailed(round=2, reason="any", counted=(), policy="retry"), 1.0, "demo.round.failed.2")
    )
    held.store_changed("older")
    await held.put_back(bus)
    back = await stored(bus)
    assert back is not None
    assert back.changes == (6 if is_there else 3)
    # Our events would tell the bridges that the rounds to come are over.
    assert len(held._events) == (1 if is_there else 0)


async def test_an_open_round_sends_its_tasks_again(bus: Broker) -> None:
    record = msgspec.structs.replace(OURS, cohort=cohort.members(fakes.clients(2)), invited=True, closed=7)
    await bus.put(topics.job_record("demo"), codec.encode(record))
    held = holding(record)
    held.store_changed("older")
    await held.put_back(bus)
    back = await stored(bus)
    assert back == msgspec.structs.replace(record, changes=6, invited=False, closed=None)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_job_whose_clients_states_are_lost_goes_on_from_what_the_store_has_or_from_its_start(
    bus: Broker,
    is_there: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    state = BlobRef(topics.client_state("demo", "c-1", 2, 1, "opt"), "cd" * 32, 5)
    if is_there:
        await put(bus, changes=3, done=1, round=1)
    before = await stored(bus)
    _, held = holding_states(state)
    held.store_changed("older")
    await held.put_back(bus)
    start = JobRecord(id="demo", job=OURS.job, created_s=1.0, changes=6)
    assert await stored(bus) == (before if is_there else start)


async def test_a_job_whose_clients_states_are_there_is_put_back(bus: Broker) -> None:
    state = BlobRef(topics.client_state("demo", "c-1", 2, 1, "opt"), "cd" * 32, 5)
    await bus.put(state.topic, b"state")
    record, held = holding_states(state)
    held.store_changed("older")
    await held.put_back(bus)
    assert await stored(bus) == msgspec.structs.replace(record, changes=6)


def test_only_what_the_newest_record_names_is_held_and_ended_jobs_not_for_long() -> None:
    held, newer = holding(), BlobRef(topics.model("demo", "cd" * 32), "cd" * 32, 5)
    held.note_blob("demo", newer.topic, b"newer")
    held.note_record(msgspec.structs.replace(OURS, model=newer, changes=6))
    assert held._jobs["demo"].blobs == {newer.topic: b"newer"}
    ended = msgspec.structs.replace(OURS, phase="completed", announced=True, ended_s=100.0)
    held.note_record(ended)
    held.forget_old(100.0 + HELD_S)
    assert "demo" in held._jobs
    held.forget_old(100.1 + HELD_S)
    assert "demo" not in held._jobs


async def test_a_job_that_the_store_forgot_ends_with_the_same_model_and_all_events(
    bus: MemoryBroker,
) -> None:
    sdk, held = Client(bus), Held()
    await sdk.register(fakes.clients(6))
    job = fakes.job(stop={"rounds": 6}, cohort={"grace_s": 0.0})
    async with running(Fleet(bus).serve(), serve(bus, FakeLearning(), held=held)):
        undisturbed = await sdk.submit(job)
        whole = [key_of(message) async for message in sdk.watch(undisturbed)]
        earlier = copy.deepcopy((bus._hub.logs, bus._hub.consumers))
        lost = await sdk.submit(job)
        await anext(message async for message in sdk.watch(lost) if key_of(message) == "round.completed.4")
    bus._hub.logs, bus._hub.consumers = earlier
    held.store_changed("older")
    ready = asyncio.Event()
    again = serve(bus, FakeLearning(), held=held, on_ready=ready.set)
    async with asyncio.timeout(60), running(Fleet(bus).serve(), again):
        await ready.wait()
        events = [key_of(message) async for message in sdk.watch(lost)]
    records = [await sdk.job(each) for each in (undisturbed, lost)]
    assert records[0].model.sha256 == records[1].model.sha256  # type: ignore[union-attr]
    assert {*whole} - {*events} == set()
