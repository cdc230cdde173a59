"""A job's record and models: changed by one server at a time, checked by digest, deleted when superseded."""

from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.errors import Conflict, CorruptPayload
from broker.messages import codec, tensors
from broker.messages.errors import DecodeError
from broker.messages.job_record import BestModel, JobRecord
from broker.messages.round import BlobRef
from broker.messages.state_table import ClientState
from broker.messages.tensors import Tensors
from server.job_store import JobStore, Published
from server.state_tables import MOST_TABLES
from server.strategies.base import GlobalState
from tests.support import fakes

STATE = GlobalState(fakes.INITIAL, {})


@pytest.fixture
async def bus(memory_url: str) -> AsyncIterator[Broker]:
    async with broker.connect(memory_url) as connection:
        yield connection


async def publish(store: JobStore, state: GlobalState, along: Tensors) -> Published:
    return await store.publish(store.take(state), along)


def store(bus: Broker, revision: int = 0, **facts: object) -> JobStore:
    record = JobRecord(id="job-1", job=fakes.job(), created_s=1.0)
    return JobStore(bus, msgspec.structs.replace(record, **facts), revision)


async def stored(bus: Broker, topic: str) -> bytes | None:
    value = await bus.get(topic)
    return None if value is None else value.payload


async def test_a_changed_record_is_the_one_in_the_broker(bus: Broker) -> None:
    mine = store(bus)
    await mine.change(round=1)
    await mine.change(round=2)
    assert mine.record.round == 2
    assert codec.decode(JobRecord, await stored(bus, topics.job_record("job-1")) or b"") == mine.record


async def test_a_server_that_another_one_overtook_moves_nothing(bus: Broker) -> None:
    mine, other = store(bus), store(bus)
    await other.change(round=7)
    with pytest.raises(Conflict):
        await mine.change(round=1)
    assert mine.record.round == 0
    assert codec.decode(JobRecord, await stored(bus, topics.job_record("job-1")) or b"").round == 7


async def test_a_record_that_nobody_could_read_is_not_written(bus: Broker) -> None:
    mine = store(bus)
    await mine.change(round=1)
    with pytest.raises(DecodeError, match="metrics"):
        await mine.change(metrics={"accuracy": float("inf")})
    assert mine.record.metrics == {}
    assert codec.decode(JobRecord, await stored(bus, topics.job_record("job-1")) or b"") == mine.record


async def test_a_model_is_recalled_as_it_was_published(bus: Broker) -> None:
    mine = store(bus)
    momentum = {"momentum": np.ones(3, np.float32)}
    published = await publish(mine, GlobalState(fakes.INITIAL, momentum), {"c": np.zeros(2)})
    again = store(bus, **published._asdict())
    assert again.record.along is not None
    assert tensors.decode(await stored(bus, again.record.along.topic) or b"")[0]["c"].tolist() == [0.0, 0.0]
    state = await again.load_state()
    assert tensors.encode(state.weights) == mine.weights == again.weights
    np.testing.assert_array_equal(state.server_state["momentum"], np.ones(3, np.float32))


async def test_a_model_that_is_missing_or_another_is_not_believed(bus: Broker) -> None:
    model = (await publish(store(bus), STATE, {})).model
    await bus.purge(model.topic)
    with pytest.raises(CorruptPayload, match="missing"):
        await store(bus, model=model).load_state()
    await bus.put(model.topic, b"something else")
    with pytest.raises(CorruptPayload, match="digest"):
        await store(bus, model=model).load_state()


async def test_after_a_round_its_updates_and_the_superseded_state_and_model_are_dropped(bus: Broker) -> None:
    old, new = (BlobRef(topics.client_state("job-1", "c-1", n, 1, "opt"), "ab" * 32, 1) for n in (1, 2))
    models = [(await publish(store(bus), GlobalState({"x": np.full(1, n, np.float32)}), {})).model for n in range(3)]
    for ref in (old, new):
        await bus.put(ref.topic, b"state")
    update = topics.update("job-1", 2, "c-1", 1)
    await bus.publish(update, b"update")

    mine, opened = store(bus), store(bus, round=1, model=models[0]).record
    await mine.change(model=models[1], superseded=mine.superseded(opened))
    await mine.delete_superseded(opened)
    assert await stored(bus, models[0].topic) is not None, "the model before the last stays for those who are late"
    opened = msgspec.structs.replace(mine.record, round=2)
    mine.states.take({"c-1": ClientState({"opt": old})})
    await mine.change(model=models[2], superseded=mine.superseded(opened))
    mine.states.take({"c-1": ClientState({"opt": new})})
    await mine.delete_superseded(opened)
    assert [await stored(bus, topic) is not None for topic in (old.topic, new.topic, update)] == [False, True, False]
    assert [await stored(bus, model.topic) is not None for model in models] == [False, True, True]


async def test_after_a_round_the_superseded_tensors_of_the_strategy_are_dropped(bus: Broker) -> None:
    def state(number: int) -> GlobalState:
        return GlobalState({"x": np.full(1, number, np.float32)}, {"m": np.full(2, number % 2, np.float32)})

    first = await publish(store(bus), state(1), {"c": np.zeros(2)})
    second = await publish(store(bus), state(2), {"c": np.zeros(2)})
    mine = store(bus, **second._asdict())
    await mine.delete_superseded(store(bus, round=1, **first._asdict()).record)
    assert first.server_state is not None
    assert first.along is not None
    assert await stored(bus, first.server_state.topic) is None
    assert await stored(bus, first.along.topic) is not None, "the next round has the same tensors"


async def test_a_round_writes_the_states_of_its_own_clients_and_at_times_those_of_all(bus: Broker) -> None:
    mine, sizes, counts = store(bus, model=(await publish(store(bus), STATE, {})).model), [], []
    for number in range(1, 2 * MOST_TABLES + 2):
        opened = msgspec.structs.replace(mine.record, round=number)
        left = {f"c-{number}": ClientState({"opt": BlobRef(f"fl.state.{number}", "ab" * 32, 1)})}
        await mine.change(round=number)
        await mine.change(**await mine.publish_states(left))
        mine.states.take(left)
        await mine.delete_superseded(opened)
        sizes.append(len(codec.encode(mine.record)))
        counts.append(len(mine.record.state_tables))
        tables = {table.topic for table in mine.record.state_tables}
        assert await bus.stored_topics(topics.job_models("job-1")) == {*tables, mine.record.model.topic}  # type: ignore[union-attr]
    assert counts == [*range(1, MOST_TABLES + 1)] * 2 + [1]
    grown = max(sizes) - sizes[MOST_TABLES - 1]
    assert grown < 32, "only numbers in the record get more digits, however many clients have states"
    again = JobStore(bus, mine.record, 1)
    await again.load_state()
    assert again.states.topics() == {f"fl.state.{number}" for number in range(1, 2 * MOST_TABLES + 2)}


async def test_states_that_all_clients_have_lost_are_named_no_more(bus: Broker) -> None:
    mine = store(
        bus, states={"c-1": BlobRef("fl.state.old", "ab" * 32, 1)}, model=(await publish(store(bus), STATE, {})).model
    )
    await mine.change(**await mine.publish_states({"c-1": ClientState()}))
    again = JobStore(bus, mine.record, 1)
    await again.load_state()
    assert again.states.topics() == set()


async def test_a_round_that_changes_no_state_writes_no_table(bus: Broker) -> None:
    mine, left = store(bus), {"c-1": ClientState({"opt": BlobRef("fl.state.1", "ab" * 32, 1)})}
    assert await mine.publish_states({"c-1": ClientState()}) == {}
    mine.states.take(left)
    assert await mine.publish_states(left) == {}


async def test_the_states_of_a_record_of_version_0_1_go_into_the_first_table(bus: Broker) -> None:
    old = BlobRef("fl.state.old", "ab" * 32, 1)
    mine = store(bus, states={"c-0": old, "c-1": old}, model=(await publish(store(bus), STATE, {})).model)
    left = {"c-1": ClientState({"opt": BlobRef("fl.state.1", "ab" * 32, 1)}), "c-2": ClientState()}
    await mine.change(**await mine.publish_states(left))
    assert mine.record.states == {}
    again = JobStore(bus, mine.record, 1)
    await again.load_state()
    assert again.states.topics() == {"fl.state.old", "fl.state.1"}


async def test_a_server_that_was_restarted_deletes_what_the_one_before_had_superseded(bus: Broker) -> None:
    models = [(await publish(store(bus), GlobalState({"x": np.full(1, n, np.float32)}), {})).model for n in range(4)]
    best = BestModel(1, "accuracy", 0.5, models[1])
    revision, record = 0, store(bus, model=models[0], best=best).record
    for number in range(1, 4):
        restarted, opened = JobStore(bus, record, revision), record
        await restarted.change(model=models[number], superseded=restarted.superseded(opened), round=number)
        await restarted.delete_superseded(opened)
        revision, record = restarted._revision, restarted.record
    assert await bus.stored_topics(topics.job_models("job-1")) == {model.topic for model in models[1:]}
    better = JobStore(bus, record, revision)
    await better.change(best=None, superseded=better.superseded(record))
    await better.delete_superseded(record)
    assert await bus.stored_topics(topics.job_models("job-1")) == {models[3].topic}


async def test_after_the_end_nothing_is_left_that_the_record_does_not_name(bus: Broker) -> None:
    models = [(await publish(store(bus), GlobalState({"x": np.full(1, n, np.float32)}), {})).model for n in range(4)]
    state = topics.client_state("job-1", "c-1", 1, 1, "opt")
    await bus.put(state, b"state")
    await bus.publish(topics.update("job-1", 2, "c-1", 1), b"update")
    await store(bus, model=models[2], kept={1: models[1]}).clean_up()
    assert await bus.stored_topics(topics.job_models("job-1")) == {models[1].topic, models[2].topic}
    assert not await bus.stored_topics(topics.job_states("job-1")) | await bus.stored_topics(
        topics.job_updates("job-1")
    )
