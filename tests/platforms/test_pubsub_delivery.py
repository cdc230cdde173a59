"""Our Pub/Sub delivers at least once, in any order, and like Eventarc, with the faults that a test wants."""

import asyncio
import base64
import math
from collections.abc import AsyncIterator

import grpc
import pytest
from google.api_core import exceptions

from emulators.gcf.pubsub import PubSub, serving
from emulators.gcf.push import EVENTARC_BYTES
from emulators.gcf.subscription import Subscription
from tests.support.pubsub_site import OURS, WITHIN_S, Endpoint, Service, clients, listening, pushes_to


@pytest.fixture
async def pubsub() -> AsyncIterator[PubSub]:
    """Our Pub/Sub, with its switches."""
    async with serving(retry_first_s=0.02, retry_most_s=0.1) as running:
        yield running


@pytest.fixture
async def ours(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    async with clients(OURS, pubsub.address) as service:
        yield service


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with listening() as endpoint:
        yield endpoint


async def test_a_push_that_is_not_answered_by_2xx_is_repeated(ours: Service, endpoint: Endpoint) -> None:
    await pushes_to(ours, endpoint)
    endpoint.statuses.extend([500, 429, 302])
    await ours.publish(b"request")
    ids = {(await endpoint.next())[1]["message"]["messageId"] for _ in range(4)}
    assert len(ids) == 1
    await ours.publish(b"next")
    assert base64.b64decode((await endpoint.next())[1]["message"]["data"]) == b"next"


async def test_a_lease_that_runs_out_brings_the_message_again(pubsub: PubSub, ours: Service) -> None:
    await ours.make_topic()
    pubsub.subscribe(Subscription(ours.pulled, ours.topic, ack_deadline_s=0.05))
    sent = await ours.publish(b"request")
    (first,) = await ours.pull()
    (second,) = await ours.pull()
    assert (first.message.message_id, second.message.message_id) == (sent, sent)
    assert first.ack_id != second.ack_id


async def test_messages_come_twice_and_out_of_order_when_asked_to(pubsub: PubSub, ours: Service) -> None:
    await ours.make_subscription()
    pubsub.duplicates = 1
    await ours.publish(b"twice")
    pubsub.reorder = 3
    for data in (b"a", b"b", b"c", b"d"):
        await ours.publish(data)
    assert [each.message.data for each in await ours.pull()] == [b"twice", b"twice", b"c", b"b", b"a", b"d"]


async def test_the_publisher_refuses_and_dawdles_when_asked_to(pubsub: PubSub, ours: Service) -> None:
    pubsub.refusals.append(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(exceptions.ServiceUnavailable):
        await ours.make_topic()
    await ours.make_topic()
    pubsub.delay_s = 10.0
    with pytest.raises(exceptions.DeadlineExceeded):
        await asyncio.to_thread(ours.publisher.get_topic, topic=ours.topic, retry=None, timeout=0.2)


async def test_eventarc_pushes_a_cloudevent_in_binary_mode(pubsub: PubSub, ours: Service, endpoint: Endpoint) -> None:
    await ours.make_topic()
    pubsub.subscribe(Subscription(ours.pushed, ours.topic, endpoint=endpoint.url, is_eventarc=True))
    sent = await ours.publish(b"request", client="c-1")
    headers, body = await endpoint.next()
    assert {name: value for name, value in headers.items() if name.startswith("ce-") and name != "ce-time"} == {
        "ce-id": sent,
        "ce-source": f"//pubsub.googleapis.com/{ours.topic}",
        "ce-specversion": "1.0",
        "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
    }
    assert headers["ce-time"] == body["message"]["publishTime"]


async def test_eventarc_delivers_no_event_of_more_than_512_kb(
    pubsub: PubSub, ours: Service, endpoint: Endpoint
) -> None:
    await ours.make_topic()
    pubsub.subscribe(Subscription(ours.pushed, ours.topic, endpoint=endpoint.url, is_eventarc=True))
    # Base64 makes four bytes of three.
    await ours.publish(bytes(math.ceil(EVENTARC_BYTES * 3 / 4)))
    await ours.publish(b"small")
    assert base64.b64decode((await endpoint.next())[1]["message"]["data"]) == b"small"
    assert [len(each.data) for each in pubsub.pusher.dropped] == [EVENTARC_BYTES * 3 // 4]


async def test_without_retries_a_failed_push_is_dropped(pubsub: PubSub, ours: Service, endpoint: Endpoint) -> None:
    await ours.make_topic()
    pubsub.subscribe(Subscription(ours.pushed, ours.topic, endpoint=endpoint.url, retries=False))
    endpoint.statuses.append(500)
    await ours.publish(b"lost")
    await endpoint.next()
    await ours.publish(b"next")
    assert base64.b64decode((await endpoint.next())[1]["message"]["data"]) == b"next"
    assert [each.data for each in pubsub.pusher.dropped] == [b"lost"]


async def test_an_endpoint_that_does_not_answer_in_time_gets_the_message_again(pubsub: PubSub, ours: Service) -> None:
    await ours.make_topic()
    calls: asyncio.Queue[bytes] = asyncio.Queue()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.put_nowait(await reader.readline())
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as silent, asyncio.timeout(WITHIN_S):
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        pubsub.subscribe(Subscription(ours.pushed, ours.topic, endpoint=url, ack_deadline_s=0.1))
        await ours.publish(b"request")
        assert [await calls.get() for _ in range(2)] == [b"POST / HTTP/1.1\r\n"] * 2
        pubsub.unsubscribe(ours.pushed)
