"""Model and update travel inside a call, for a function that can't reach the broker."""

from collections.abc import AsyncIterator

import msgspec
import pytest

import broker
from bridges.errors import InvocationFailed
from bridges.openfaas.inline import InlineTransfer
from broker import topics
from broker.base import Broker
from broker.deliveries import Receipt
from broker.messages import bundle, codec
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.job_sections import Model, Training
from broker.messages.round import BlobRef, RoundTask

MODEL = BlobRef(topics.model("job", "ab" * 32), "ab" * 32, 5)
STATE = BlobRef(topics.client_state("job", "c-1", 2, 1, "opt"), "cd" * 32, 5)
UPDATE_AT = topics.update("job", 3, "c-1", 2)
OLD_STATE_AT = topics.client_state("job", "c-1", 3, 2, None)
STATE_AT = topics.client_state("job", "c-1", 3, 2, "opt")
TASK = RoundTask(
    client_id="c-1",
    client_type="openfaas",
    url="",
    model_configuration=Model(),
    data_loc="",
    training_hyperparameters=Training(),
    job="job",
    round=3,
    model=MODEL,
    states={"opt": STATE},
    token="t",  # noqa: S106 (of no task)
    seed=1,
    deadline_s=4e9,
    max_attempts=3,
)
REQUEST = InvocationRequest(TASK, 2)
DONE = msgspec.json.encode(Report(TASK.id, "done"))


@pytest.fixture
async def bus(memory_url: str) -> AsyncIterator[Broker]:
    """A broker with the model and the state."""
    async with broker.connect(memory_url) as connection:
        await connection.put(MODEL.topic, b"model")
        await connection.put(STATE.topic, b"state")
        yield connection


async def payload(bus: Broker, topic: str) -> bytes | None:
    value = await bus.get(topic)
    return None if value is None else value.payload


async def test_a_bundle_has_the_request_and_what_it_names(bus: Broker) -> None:
    message, blobs = bundle.unpack(await InlineTransfer(bus).pack(REQUEST))
    assert codec.decode(InvocationRequest, message) == REQUEST
    assert blobs == {MODEL.topic: b"model", STATE.topic: b"state"}


async def test_a_bundle_without_a_state_has_the_model_alone(bus: Broker) -> None:
    _, blobs = bundle.unpack(
        await InlineTransfer(bus).pack(InvocationRequest(msgspec.structs.replace(TASK, states={}), 2))
    )
    assert blobs == {MODEL.topic: b"model"}


async def test_a_bundle_has_all_states_and_what_the_strategy_sends_along(bus: Broker) -> None:
    along, scaffold = (
        BlobRef(topic, "cd" * 32, 5) for topic in ("fl.models.job.along", "fl.state.job.c-1.2.1.scaffold")
    )
    for ref in (along, scaffold):
        await bus.put(ref.topic, ref.topic.encode())
    task = msgspec.structs.replace(TASK, states={"opt": STATE, "scaffold": scaffold}, along=along)
    _, blobs = bundle.unpack(await InlineTransfer(bus).pack(InvocationRequest(task, 2)))
    assert blobs == {
        MODEL.topic: b"model",
        along.topic: along.topic.encode(),
        STATE.topic: b"state",
        scaffold.topic: scaffold.topic.encode(),
    }


async def test_a_missing_model_is_an_error(bus: Broker) -> None:
    await bus.delete(MODEL.topic)
    with pytest.raises(InvocationFailed, match=f"{MODEL.topic} is not with the broker"):
        await InlineTransfer(bus).pack(REQUEST)


async def test_update_and_state_are_published_where_the_function_would_have(bus: Broker) -> None:
    body = bundle.pack(DONE, {UPDATE_AT: b"update", STATE_AT: b"new state"})
    assert (await InlineTransfer(bus).publish_reply(body, REQUEST)).state == "done"
    assert await payload(bus, UPDATE_AT) == b"update"
    assert await payload(bus, STATE_AT) == b"new state"
    async with bus.subscribe(topics.round_updates("job", 3)) as deliveries:
        assert await (await anext(deliveries)).read() == b"update"


@pytest.mark.parametrize("states", [(OLD_STATE_AT,), (STATE_AT, f"{OLD_STATE_AT}.scaffold")])
async def test_the_states_are_stored_before_the_update(
    bus: Broker, monkeypatch: pytest.MonkeyPatch, states: tuple[str, ...]
) -> None:
    request: list[str] = []
    put, publish = bus._put, bus._publish

    async def recorded_put(topic: str, message: bytes, revision: int | None) -> int:
        request.append(topic)
        return await put(topic, message, revision)

    async def recorded_publish(topic: str, message: bytes, dedupe: str | None) -> Receipt:
        request.append(topic)
        return await publish(topic, message, dedupe)

    monkeypatch.setattr(bus, "_put", recorded_put)
    monkeypatch.setattr(bus, "_publish", recorded_publish)
    body = bundle.pack(DONE, {UPDATE_AT: b"update", **dict.fromkeys(states, b"new state")})
    await InlineTransfer(bus).publish_reply(body, REQUEST)
    assert request == [*states, UPDATE_AT]


@pytest.mark.parametrize(
    "foreign",
    [
        topics.update("job", 3, "c-1", 1),
        topics.update("job", 4, "c-1", 2),
        topics.update("job", 3, "c-2", 2),
        topics.update("other", 3, "c-1", 2),
        topics.client_state("job", "c-2", 3, 2, "opt"),
        topics.client_state("job", "c-1", 3, 1, "opt"),
        topics.client_state("job", "c-1", 3, 1, None),
        topics.client_state("job", "c-1", 3, 2, "*"),
        topics.client_state("job", "c-1", 3, 2, "opt") + ".more",
        topics.model("job", "ef" * 32),
        topics.job_record("job"),
        topics.client("c-1"),
        "nonsense",
    ],
)
async def test_what_is_not_its_own_is_refused_with_all_the_rest(bus: Broker, foreign: str) -> None:
    body = bundle.pack(DONE, {UPDATE_AT: b"update", foreign: b"forged"})
    with pytest.raises(InvocationFailed, match="it answers with 6 bytes for") as caught:
        await InlineTransfer(bus).publish_reply(body, REQUEST)
    assert not caught.value.retryable
    assert await payload(bus, UPDATE_AT) is None


@pytest.mark.parametrize("topic", [UPDATE_AT, STATE_AT])
async def test_what_is_empty_is_refused(bus: Broker, topic: str) -> None:
    with pytest.raises(InvocationFailed, match="0 bytes"):
        await InlineTransfer(bus).publish_reply(bundle.pack(DONE, {UPDATE_AT: b"update", topic: b""}), REQUEST)
    assert await payload(bus, UPDATE_AT) is None


@pytest.mark.parametrize("body", [DONE, bundle.pack(DONE, {}), bundle.pack(DONE, {STATE_AT: b"state"})])
async def test_done_without_an_update_is_a_failure(bus: Broker, body: bytes) -> None:
    with pytest.raises(InvocationFailed, match="sends no update"):
        await InlineTransfer(bus).publish_reply(body, REQUEST)
    assert await payload(bus, STATE_AT) is None


async def test_a_failure_may_be_a_bare_report_or_a_bundle_and_publishes_nothing(bus: Broker) -> None:
    failed = Report(TASK.id, "failed", reason="BadShard", retryable=False)
    message = msgspec.json.encode(failed)
    assert await InlineTransfer(bus).publish_reply(message, REQUEST) == failed
    assert await InlineTransfer(bus).publish_reply(bundle.pack(message, {UPDATE_AT: b"update"}), REQUEST) == failed
    assert await payload(bus, UPDATE_AT) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no report"),
        (b"<html>", "no report"),
        (bundle.pack(DONE, {UPDATE_AT: b"update"})[:-1], "no report"),
        (bundle.pack(b'{"id": 1}', {UPDATE_AT: b"update"}), "no report"),
        (msgspec.json.encode(Report("job.3.c-2", "failed")), "another task"),
        (bundle.pack(msgspec.json.encode(Report("job.2.c-1", "done")), {UPDATE_AT: b"update"}), "another task"),
    ],
)
async def test_what_is_no_answer_to_the_order_is_a_failure(bus: Broker, body: bytes, reason: str) -> None:
    with pytest.raises(InvocationFailed, match=reason):
        await InlineTransfer(bus).publish_reply(body, REQUEST)
    assert await payload(bus, UPDATE_AT) is None
