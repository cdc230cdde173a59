"""Google's own clients work with our Pub/Sub, and with Google's emulator if it is installed."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from google.api_core import exceptions
from google.cloud.pubsub_v1 import SubscriberClient

from emulators.gcf.pubsub import serving
from tests.support import pubsub_google
from tests.support.pubsub_site import CALL, GOOGLES, OURS, WITHIN_S, Endpoint, Service, clients, listening, pushes_to

JAR: Final = pubsub_google.jar()


@pytest.fixture(scope="module")
def googles_address() -> Iterator[str]:
    """Google's emulator, one for all tests. Each test has its own project."""
    assert JAR is not None
    with pubsub_google.serving(JAR) as address:
        yield address


@pytest.fixture(params=[OURS, GOOGLES] if JAR else [OURS], ids=lambda kind: kind.name)
async def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(2 * WITHIN_S):
        if request.param is OURS:
            address = (await stack.enter_async_context(serving())).address
        else:
            address = request.getfixturevalue("googles_address")
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
        yield await stack.enter_async_context(clients(request.param, address))


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with listening() as endpoint:
        yield endpoint


async def test_topics_are_made_once_listed_and_deleted(service: Service) -> None:
    await service.call(service.publisher.create_topic, name=service.topic, labels={"a": "b"})
    with pytest.raises(exceptions.AlreadyExists):
        await service.make_topic()
    assert [each.name for each in await service.call(service.publisher.list_topics, project=service.project)] == [
        service.topic
    ]
    assert dict((await service.call(service.publisher.get_topic, topic=service.topic)).labels) == {"a": "b"}
    await service.call(service.publisher.delete_topic, topic=service.topic)
    for method in (service.publisher.get_topic, service.publisher.delete_topic):
        with pytest.raises(exceptions.NotFound):
            await service.call(method, topic=service.topic)


@pytest.mark.parametrize("name", ["ab", "1abc", "google-abc", "a b c", "x" * 256])
async def test_a_name_that_no_topic_may_have_is_refused(service: Service, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        await service.call(service.publisher.create_topic, name=f"{service.project}/topics/{name}")


async def test_a_message_is_delivered_until_it_is_acknowledged(service: Service) -> None:
    await service.make_subscription()
    sent = await service.publish(b"request", client="c-1")
    (first,) = await service.pull()
    assert (first.message.message_id, first.message.data, dict(first.message.attributes)) == (
        sent,
        b"request",
        {"client": "c-1"},
    )
    await service.call(
        service.subscriber.modify_ack_deadline,
        subscription=service.pulled,
        ack_ids=[first.ack_id],
        ack_deadline_seconds=0,
    )
    (second,) = await service.pull()
    assert second.message.message_id == sent
    await service.call(service.subscriber.acknowledge, subscription=service.pulled, ack_ids=[second.ack_id])
    await service.publish(b"next")
    assert [each.message.data for each in await service.pull()] == [b"next"]


async def test_messages_stream_to_googles_subscriber(service: Service) -> None:
    await service.make_subscription()
    loop, received = asyncio.get_running_loop(), asyncio.Queue[bytes]()

    def take(message: Any) -> None:
        message.ack()
        loop.call_soon_threadsafe(received.put_nowait, message.data)

    streaming = service.subscriber.subscribe(service.pulled, take)
    sent = {b"%d" % number for number in range(5)}
    for data in sent:
        await service.publish(data)
    async with asyncio.timeout(WITHIN_S):
        assert {await received.get() for _ in sent} == sent
    streaming.cancel()
    await asyncio.to_thread(streaming.result, WITHIN_S)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"data": b""}], "Some messages are empty"),
        ([{"data": b"x"}, {}], "Some messages are empty"),
        ([], "No messages"),
    ],
)
async def test_a_message_without_data_and_attributes_is_refused(
    service: Service, messages: list[dict[str, bytes]], why: str
) -> None:
    await service.make_topic()
    with pytest.raises(exceptions.InvalidArgument, match=why):
        await asyncio.to_thread(service.publisher._gapic_publish, topic=service.topic, messages=messages, **CALL)


async def test_a_message_without_data_is_one(service: Service) -> None:
    await service.make_subscription()
    await service.publish(b"", only="attributes")
    (received,) = await service.pull()
    assert dict(received.message.attributes) == {"only": "attributes"}


async def test_a_request_of_more_than_ten_million_bytes_is_refused(service: Service) -> None:
    await service.make_topic()
    large = [{"data": bytes(10_000_000)}]
    with pytest.raises(ValueError, match="too large"):  # the client itself refuses it
        await service.publish(large[0]["data"])
    with pytest.raises(exceptions.InvalidArgument) if service.kind.refuses_large else contextlib.nullcontext():
        await asyncio.to_thread(service.publisher._gapic_publish, topic=service.topic, messages=large, **CALL)


async def test_a_message_of_almost_ten_million_bytes_passes_a_channel_without_limit(service: Service) -> None:
    await service.make_subscription()
    await service.publish(bytes(9_900_000))
    (received,) = await service.pull()
    assert len(received.message.data) == 9_900_000


async def test_googles_own_channel_to_an_emulator_takes_no_more_than_four_mebibytes(service: Service) -> None:
    await service.make_subscription()
    await service.publish(bytes(5 << 20))
    limited = await asyncio.to_thread(SubscriberClient)
    with pytest.raises(exceptions.ResourceExhausted):
        await service.call(limited.pull, subscription=service.pulled, max_messages=1)
    await asyncio.to_thread(limited.close)


async def test_a_subscription_needs_a_topic_and_a_name_of_its_own(service: Service) -> None:
    create = service.subscriber.create_subscription
    with pytest.raises(exceptions.NotFound):
        await service.call(create, name=service.pulled, topic=service.topic)
    await service.make_subscription()
    with pytest.raises(exceptions.AlreadyExists):
        await service.call(create, name=service.pulled, topic=service.topic)
    with pytest.raises(exceptions.InvalidArgument):
        await service.call(create, name=service.pushed, topic=service.topic, push_config={"push_endpoint": "nowhere"})
    response = await service.call(service.publisher.list_topic_subscriptions, topic=service.topic)
    assert list(response) == [service.pulled]
    await service.call(service.subscriber.delete_subscription, subscription=service.pulled)
    with pytest.raises(exceptions.NotFound):
        await service.call(service.subscriber.get_subscription, subscription=service.pulled)


@pytest.mark.parametrize("deadline_s", [5, 601])
async def test_an_acknowledgement_deadline_is_ten_to_six_hundred_seconds(service: Service, deadline_s: int) -> None:
    await service.make_topic()
    refused = deadline_s > 600 or service.kind.refuses_short_deadlines
    with pytest.raises(exceptions.InvalidArgument) if refused else contextlib.nullcontext():
        await service.call(
            service.subscriber.create_subscription,
            name=service.pulled,
            topic=service.topic,
            ack_deadline_seconds=deadline_s,
        )


async def test_a_subscription_outlives_its_topic_and_gets_nothing_any_more(service: Service) -> None:
    await service.make_subscription()
    await service.call(service.publisher.delete_topic, topic=service.topic)
    await service.make_topic()
    response = await service.call(service.subscriber.get_subscription, subscription=service.pulled)
    assert response.topic == "_deleted-topic_"
    assert list(await service.call(service.publisher.list_topic_subscriptions, topic=service.topic)) == []


async def test_a_message_is_pushed_as_json(service: Service, endpoint: Endpoint) -> None:
    await pushes_to(service, endpoint)
    sent = await service.publish(b"request", client="c-1")
    headers, body = await endpoint.next()
    message = body["message"]
    assert headers["content-type"] == "application/json"
    assert not [name for name in headers if name.startswith("ce-")]
    assert "authorization" not in headers
    assert body["subscription"] == service.pushed
    assert base64.b64decode(message["data"]) == b"request"
    assert message["attributes"] == {"client": "c-1"}
    assert message["messageId"] == message["message_id"] == sent
    assert message["publishTime"] == message["publish_time"]


async def test_a_message_without_data_is_pushed(service: Service, endpoint: Endpoint) -> None:
    await pushes_to(service, endpoint)
    await service.publish(b"", only="attributes")
    _, body = await endpoint.next()
    assert ("data" in body["message"]) == service.kind.pushes_empty_data


async def test_an_ordering_key_is_pushed(service: Service, endpoint: Endpoint) -> None:
    await pushes_to(service, endpoint)
    ordered = [{"data": b"request", "ordering_key": "c-1"}]
    await asyncio.to_thread(service.publisher._gapic_publish, topic=service.topic, messages=ordered, **CALL)
    _, body = await endpoint.next()
    assert body["message"].get("orderingKey") == ("c-1" if service.kind.pushes_ordering_key else None)
