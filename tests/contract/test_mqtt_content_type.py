"""Events have a content type on MQTT 5, as CloudEvents' MQTT binding (1.0.2, section 3.2.1) requires."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

import broker
from broker import BrokerUrl, topics
from broker.messages import cloudevents
from broker.messages.cloudevents import Envelope
from broker.mqtt import client as mqtt_client
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.brokers import Mosquitto
from tests.support.fakes import FakeLearning, Fleet, running

WITHIN_S = 20.0
EVENT = cloudevents.encode(Envelope("1", "/here", "round.quorum", 0.0), {"text": "x" * 100})

EVENTS = {"jobs", "tasks", "invocations", "progress"}

Received = asyncio.Queue[MQTTMessage]


@contextlib.asynccontextmanager
async def plain_client(server: Mosquitto) -> AsyncIterator[Received]:
    """Receive messages with paho alone, without our code."""
    loop, received, subscribed = asyncio.get_running_loop(), Received(), asyncio.Event()
    paho = Paho(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)

    def on_message(_client: Paho, _data: object, message: MQTTMessage) -> None:
        loop.call_soon_threadsafe(received.put_nowait, message)

    def on_subscribe(*_: object) -> None:
        loop.call_soon_threadsafe(subscribed.set)

    paho.on_message, paho.on_subscribe = on_message, on_subscribe
    await asyncio.to_thread(paho.connect, "127.0.0.1", server.port)
    paho.loop_start()
    try:
        paho.subscribe("fl/#", qos=1)
        async with asyncio.timeout(WITHIN_S):
            await subscribed.wait()
        yield received
    finally:
        paho.disconnect()
        await asyncio.to_thread(paho.loop_stop)


async def received_until(received: Received, topic: str) -> list[MQTTMessage]:
    """Return the published messages up to a topic with this prefix, without deletions."""
    messages: list[MQTTMessage] = []
    async with asyncio.timeout(WITHIN_S):
        while not messages or not messages[-1].topic.startswith(topic):
            messages.append(await received.get())
    return [message for message in messages if message.payload]


async def content_type(received: Received) -> str | None:
    return _content_type(await asyncio.wait_for(received.get(), WITHIN_S))


def _content_type(message: MQTTMessage) -> str | None:
    return getattr(message.properties, "ContentType", None)


def _family(message: MQTTMessage) -> str:
    return message.topic.split("/")[1]


@pytest.mark.parametrize(
    "topic",
    [
        topics.progress("job", "round", "quorum"),
        topics.task("edge", "c-0"),
        topics.invocation("edge", "c-0"),
        topics.submission("job"),
        topics.cancellation("job"),
    ],
)
async def test_an_event_has_the_content_type_of_cloud_events(mosquitto: Mosquitto, topic: str) -> None:
    async with broker.connect(mosquitto.url) as bus, plain_client(mosquitto) as received:
        await bus.publish(topic, EVENT)
        assert await content_type(received) == "application/cloudevents+json"


async def test_what_is_no_cloud_event_does_not_say_so(mosquitto: Mosquitto) -> None:
    async with broker.connect(mosquitto.url) as bus, plain_client(mosquitto) as received:
        await bus.put(topics.presence("edge", "board"), b"{}")
        assert await content_type(received) is None
        await bus.publish(topics.reply("r-1"), b"{}")
        assert await content_type(received) is None


@pytest.mark.parametrize("said", ["application/cloudevents+json", "application/json", None])
async def test_what_a_plain_client_says_of_its_message_stays_with_the_event(
    mosquitto: Mosquitto, said: str | None
) -> None:
    address = BrokerUrl.parse(mosquitto.url)
    async with (
        broker.connect(mosquitto.url) as bus,
        plain_client(mosquitto) as received,
        bus.subscribe(topics.SUBMIT, durable="server"),
        mqtt_client.open_client(address, "plain", version=5, receive=lambda _: None) as client,
    ):
        await client.publish("fl/jobs/submit", b"{}", retain=False, content_type=said or "")
        [_, event] = await received_until(received, "fl/jobs/submit/")
    assert _content_type(event) == said


async def test_a_manifest_of_chunks_is_no_cloud_event(mosquitto: Mosquitto) -> None:
    async with broker.connect(mosquitto.url) as bus, plain_client(mosquitto) as received:
        bus.inline_limit = len(EVENT) - 1
        await bus.publish(topics.progress("job", "round", "quorum"), EVENT)
        content_types = [await content_type(received) for _ in range(3)]
    assert content_types == [None, None, None], "two chunks and their manifest"


async def test_exactly_the_events_of_a_job_have_a_content_type(mosquitto: Mosquitto) -> None:
    """A message with a content type is a CloudEvent, and every event of the job has one."""
    ready = asyncio.Event()
    async with broker.connect(mosquitto.url) as bus, plain_client(mosquitto) as received:
        sdk = Client(bus)
        await sdk.register(fakes.clients(4))
        async with running(serve(bus, FakeLearning(), on_ready=ready.set), Fleet(bus).serve()):
            await ready.wait()
            job = await sdk.submit(fakes.job(stop={"rounds": 1}))
            messages = await received_until(received, f"fl/progress/{job}/job/completed/")
    for message in messages:
        if _content_type(message):
            assert cloudevents.decode(bytes(message.payload))[0].source
        else:
            assert _family(message) not in EVENTS
    assert {_family(message) for message in messages if _content_type(message)} >= {"jobs", "progress", "tasks"}
