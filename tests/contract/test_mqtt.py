"""Behaviour of MQTT brokers beyond the contract: plain clients, limits, races between connections."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from paho.mqtt.client import MQTTv5, MQTTv311

import broker
from broker import Broker, BrokerUrl, Delivery, families, topics
from broker.errors import BadUrl, Conflict, ConnectFailed, CorruptPayload, Denied, PayloadTooLarge
from broker.mqtt import client as mqtt_client
from broker.mqtt.claims import Lease
from broker.mqtt.client import Client, Message
from broker.mqtt.inbound import is_inbox
from broker.mqtt.link import open_link
from tests.contract.capabilities import MISSING, Promise
from tests.support.brokers import Mosquitto
from tests.support.certificates import certificates

SOON_S = 60.0
AT_ONCE_S = 20.0
"""Less than the 30 s after which a call is given up."""

NEVER_S = 0.3
PROGRESS = topics.progress("job-1", "round", "completed")
RECORD = topics.job_record("job-1")


@pytest.fixture(params=["mosquitto", "nats-mqtt"])
def kind(request: pytest.FixtureRequest) -> str:
    """Brokers that speak MQTT."""
    name: str = request.param
    return name


@pytest.fixture
async def plain_client(kind: str, url: str) -> AsyncIterator["PlainClient"]:
    """A plain MQTT client."""
    plain_client = PlainClient()
    version = MQTTv5 if kind == "mosquitto" else MQTTv311
    async with mqtt_client.open_client(
        BrokerUrl.parse(url), "plain", version=version, receive=plain_client.messages.put_nowait
    ) as client:
        plain_client.client = client
        yield plain_client


class PlainClient:
    client: Client

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()

    async def next_message(self) -> Message:
        return await asyncio.wait_for(self.messages.get(), SOON_S)


async def next_event(events: AsyncIterator[Delivery]) -> Delivery:
    return await asyncio.wait_for(anext(events), SOON_S)


async def is_silent(events: AsyncIterator[Delivery]) -> bool:
    try:
        await asyncio.wait_for(anext(events), NEVER_S)
    except TimeoutError:
        return True
    return False


async def test_a_plain_client_s_message_becomes_an_event(bus: Broker, plain_client: PlainClient) -> None:
    async with bus.subscribe(topics.SUBMIT, durable="server") as events:
        for number in range(3):
            await plain_client.client.publish("fl/jobs/submit", str(number).encode(), retain=False)
        for number in range(3):
            event = await next_event(events)
            assert (event.topic, await event.read()) == (topics.SUBMIT, str(number).encode())
            await event.ack()


async def test_a_delivery_says_for_how_long_the_broker_has_had_the_event_with_mqtt_5(kind: str, bus: Broker) -> None:
    """By the message expiry, which the broker counts down in seconds: no clock is compared."""
    async with bus.subscribe(topics.platform_tasks("edge"), durable="bridge-edge") as tasks:
        await bus.publish(topics.task("edge", "client-00"), b"{}")
        delivery = await next_event(tasks)
    if kind == "mosquitto":
        assert delivery.age_s is not None
        assert 0 <= delivery.age_s < SOON_S
    else:
        assert delivery.age_s is None, "MQTT 3.1.1 has no expiry"


async def test_a_plain_client_s_message_waits_for_a_consumer(bus: Broker, plain_client: PlainClient) -> None:
    async with bus.subscribe(topics.submission(topics.ANY), durable="server"):
        pass
    # On nats-server, a message that comes while the consumer's connection ends is sometimes not delivered within 60 s.
    await asyncio.sleep(0.5)
    await plain_client.client.publish("fl/jobs/mine/submit", b"1", retain=False)
    async with bus.subscribe(topics.submission(topics.ANY), durable="server") as events:
        event = await next_event(events)
        assert (event.topic, await event.read()) == (topics.submission("mine"), b"1")
        await event.ack()
    async with bus.subscribe(topics.submission(topics.ANY), durable="server") as events:
        assert await is_silent(events)


async def test_before_the_first_consumer_a_plain_client_must_retain_its_message(
    kind: str, bus: Broker, plain_client: PlainClient
) -> None:
    assert Promise.KEEPS_BEFORE_FIRST_CONSUMER in MISSING[kind]
    await plain_client.client.publish("fl/jobs/submit", b"lost", retain=False)
    await plain_client.client.publish("fl/jobs/submit", b"retained", retain=True)
    for expected in ([b"retained"], []):
        async with bus.subscribe(topics.SUBMIT, durable="server") as events:
            for payload in expected:
                event = await next_event(events)
                assert await event.read() == payload
                await event.ack()
            assert await is_silent(events)


async def test_a_plain_client_that_cancels_is_received_without_a_durable(
    bus: Broker, plain_client: PlainClient
) -> None:
    async with bus.subscribe(topics.cancellation("job-1"), prefetch=1) as events:
        await plain_client.client.publish("fl/jobs/job-1/cancel", b"{}", retain=False)
        assert (await next_event(events)).topic == topics.cancellation("job-1")


async def test_a_plain_client_s_request_gets_a_reply_with_mqtt_5(kind: str, bus: Broker, url: str) -> None:
    if Promise.ANSWERS_PLAIN_CLIENTS in MISSING[kind]:
        assert await mqtt_client.detect_version(BrokerUrl.parse(url), "asks") == MQTTv311
        return
    port = BrokerUrl.parse(url).port
    async with bus.subscribe(topics.SUBMIT, durable="server") as events:
        asking = await asyncio.create_subprocess_exec(
            *("mosquitto_rr", "-p", str(port), "-V", "5", "-t", "fl/jobs/submit", "-e", "my/answers", "-m", "{}"),
            stdout=asyncio.subprocess.PIPE,
        )
        event = await next_event(events)
        await event.answer(b"accepted")
        await event.ack()
        answer, _ = await asyncio.wait_for(asking.communicate(), SOON_S)
    assert answer == b"accepted\n"


@pytest.mark.parametrize(
    "topic", ["fl/jobs/victim/cancel", "flt/a/jobs/b/cancel", "fk/store", "$SYS/x", "a/+", "#", ""]
)
def test_no_topic_of_ours_and_no_filter_is_a_response_topic(topic: str) -> None:
    assert not is_inbox(topic)
    assert is_inbox("my/answers")


async def test_a_plain_client_can_not_make_a_server_write_to_a_topic(kind: str, bus: Broker, url: str) -> None:
    if Promise.ANSWERS_PLAIN_CLIENTS in MISSING[kind]:
        return
    async with (
        bus.subscribe(topics.SUBMIT, durable="server") as events,
        # Whoever reads plain messages to the topic retains them as events.
        bus.subscribe(topics.cancellation("victim"), prefetch=1) as cancellations,
    ):
        asking = await asyncio.create_subprocess_exec(
            *("mosquitto_rr", "-p", str(BrokerUrl.parse(url).port), "-V", "5", "-t", "fl/jobs/submit"),
            *("-e", "fl/jobs/victim/cancel", "-m", "{}", "-W", "2"),
        )
        event = await next_event(events)
        await event.answer(b"accepted")
        await event.ack()
        await bus.publish(topics.cancellation("victim"), b"by its owner")
        assert await (await next_event(cancellations)).read() == b"by its owner"
        await asyncio.wait_for(asking.wait(), SOON_S)


async def test_a_plain_client_can_read_progress(bus: Broker, plain_client: PlainClient) -> None:
    await plain_client.client.subscribe(["fl/progress/#"], qos=1, retained=True)
    await bus.publish(PROGRESS, b'{"specversion": "1.0"}')
    message = await plain_client.next_message()
    assert message.topic.startswith("fl/progress/job-1/round/completed/")
    assert json.loads(message.payload) == {"specversion": "1.0"}


async def test_a_plain_client_may_put_a_bare_value(bus: Broker, plain_client: PlainClient) -> None:
    await plain_client.client.publish("fl/clients/c1", b'{"id": "c1"}', retain=True)
    value = await bus.get(topics.client("c1"))
    assert value is not None
    assert value.payload == b'{"id": "c1"}'
    revision = await bus.put(topics.client("c1"), b"ours", revision=value.revision)
    assert revision > value.revision


async def test_of_many_connections_that_compare_and_set_one_wins(kind: str, url: str) -> None:
    async def move(number: int) -> int | None:
        async with broker.connect(url) as bus:
            try:
                return await bus.put(RECORD, str(number).encode(), revision=0)
            except Conflict:
                return None

    async with asyncio.timeout(SOON_S):
        results = await asyncio.gather(*(move(number) for number in range(10)))
    winners = [number for number, moved in enumerate(results) if moved is not None]
    assert len(winners) == 1 or (winners and Promise.ONE_WINS in MISSING[kind])
    async with broker.connect(url) as bus:
        assert (await bus.get(RECORD)) in [broker.Value(RECORD, str(n).encode(), results[n] or 0) for n in winners]


async def test_of_many_connections_that_write_once_one_does(kind: str, url: str) -> None:
    topic = topics.update("job-1", 1, "client-1", 1)

    async def write(number: int) -> bool:
        async with broker.connect(url) as bus:
            return (await bus.publish(topic, str(number).encode())).stored

    async with asyncio.timeout(SOON_S):
        stored = await asyncio.gather(*(write(number) for number in range(10)))
    assert stored.count(True) == 1 or (any(stored) and Promise.ONE_WINS in MISSING[kind])
    async with broker.connect(url) as bus, bus.subscribe(topics.job_updates("job-1")) as events:
        event = await next_event(events)
        assert stored[int(await event.read())]
        assert await is_silent(events)


async def test_a_claim_that_was_never_used_is_cleared(
    bus: Broker, plain_client: PlainClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.mqtt.values.COMPARE_AND_SET_LEASE", Lease(0.3, 0.1))
    await plain_client.client.publish("fk/claims/fl/rounds/job-1/0", b"a publisher that crashed", retain=True)
    async with asyncio.timeout(SOON_S):
        await bus.put(RECORD, b"1", revision=0)


async def test_a_claim_on_a_payload_that_was_never_used_is_cleared(
    bus: Broker, plain_client: PlainClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.mqtt.claims._SHORTEST_S", 0.3)
    claim = "fk/claims/fl/updates/job-1/1/client-1/1"
    await plain_client.client.publish(claim, b"a function whose broker crashed", retain=True)
    async with asyncio.timeout(SOON_S):
        assert (await bus.publish(topics.update("job-1", 1, "client-1", 1), b"1")).stored


@pytest.mark.parametrize(
    "topic", [topics.update("job-1", 1, "client-1", 1), topics.model("job-1", "a" * 64)], ids=["update", "model"]
)
async def test_what_a_writer_left_that_was_killed_is_deleted(topic: str, bus: Broker, url: str) -> None:
    key = topic.replace(".", "/")
    other = topics.update("job-2", 1, "client-1", 1)
    await bus.publish(other, b"of another job")
    async with open_link(BrokerUrl.parse(url), "killed") as link:
        await link.publish(key, b"a payload without an index")
        await link.publish(f"fk/claims/{key}", b"its writer")
        await bus.purge(f"{topic.rpartition('.')[0]}.>")
        assert await link.fetch(key, f"fk/claims/{key}") == {}
    assert await bus.stored_topics(topics.job_updates("job-2")) == {other}


async def test_an_update_that_is_gone_is_corrupt(bus: Broker, plain_client: PlainClient) -> None:
    await bus.publish(topics.update("job-1", 1, "client-1", 1), b"1")
    async with bus.subscribe(topics.job_updates("job-1")) as events:
        event = await next_event(events)
        await plain_client.client.publish("fl/updates/job-1/1/client-1/1", b"", retain=True)
        with pytest.raises(CorruptPayload, match="gone"):
            await event.read()


@pytest.mark.slow
async def test_old_events_go_away(kind: str, bus: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = dataclasses.replace(families.family_of(PROGRESS), max_age_s=1.0)
    monkeypatch.setattr("broker.mqtt.broker.family_of", lambda _: brief)
    await bus.publish(PROGRESS, b"1")
    await asyncio.sleep(2.2)
    async with bus.subscribe(topics.job_progress("job-1")) as events:
        assert await is_silent(events) is (Promise.EXPIRES not in MISSING[kind])


async def test_payloads_above_the_broker_s_limit_are_chunked(tmp_path: Path) -> None:
    server = Mosquitto(tmp_path, "max_packet_size 100000")
    await server.start()
    payload = bytes(range(256)) * 4000
    try:
        async with broker.connect(server.url) as bus:
            assert bus.inline_limit < 100_000
            await bus.put(topics.model("job-1", "ab" * 32), payload)
            value = await bus.get(topics.model("job-1", "ab" * 32))
            assert value is not None
            assert value.payload == payload
    finally:
        await server.kill()


async def test_a_message_that_the_broker_does_not_take_is_an_error_at_once(tmp_path: Path) -> None:
    server = Mosquitto(tmp_path, "message_size_limit 100000")
    await server.start()
    try:
        async with asyncio.timeout(AT_ONCE_S), broker.connect(server.url) as bus:
            with pytest.raises(PayloadTooLarge):
                await bus.publish(PROGRESS, bytes(200_000))
            await bus.publish(PROGRESS, b"still connected")
    finally:
        await server.kill()


async def test_users_passwords_and_rights(tmp_path: Path) -> None:
    passwords, rights = tmp_path / "passwords", tmp_path / "rights"
    maker = await asyncio.create_subprocess_exec("mosquitto_passwd", "-c", "-b", passwords, "client", "s3cret")
    assert await maker.wait() == 0
    rights.write_text("user client\ntopic readwrite fk/#\ntopic readwrite fl/updates/#\n", encoding="utf-8")
    server = Mosquitto(tmp_path / "data", f"password_file {passwords}\nacl_file {rights}", anonymous=False)
    await server.start()
    address = server.url.replace("//", "//client:{}@")
    try:
        async with broker.connect(address.format("s3cret")) as bus:
            assert (await bus.publish(topics.update("job-1", 1, "client-1", 1), b"1")).stored
            with pytest.raises(Denied):
                await bus.publish(PROGRESS, b"1")
    finally:
        await server.kill()


async def test_tls_and_a_client_certificate(tmp_path: Path) -> None:
    await certificates(tmp_path)
    lines = (f"cafile {tmp_path}/ca.pem", f"certfile {tmp_path}/server.pem", f"keyfile {tmp_path}/server.key")
    more = "require_certificate true\nuse_identity_as_username true"
    server = Mosquitto(tmp_path / "data", "\n".join((*lines, more)))
    await server.start()
    secure = f"mqtts://127.0.0.1:{server.port}?ca_file={tmp_path}/ca.pem"
    ours = f"{secure}&cert_file={tmp_path}/client.pem&key_file={tmp_path}/client.key"
    try:
        async with broker.connect(ours) as bus:
            await bus.publish(topics.update("job-1", 1, "client-1", 1), bytes(3 << 20))
            assert (await bus.get(topics.update("job-1", 1, "client-1", 1))) is not None
        for wrong in (secure, ours.replace("ca_file", "ca_file=/dev/null&x").split("&x")[0], server.url):
            with pytest.raises((ConnectFailed, BadUrl)):
                async with broker.connect(wrong):
                    pass
    finally:
        await server.kill()


@pytest.mark.parametrize("answer", ["silence", "the end"])
async def test_a_broker_that_drops_a_connection_of_mqtt_5(
    mosquitto: Mosquitto, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends it is asked again with 3.1.1. One that says nothing is named, and `?version=3.1.1` reaches it."""
    async with older_broker(mosquitto.port, is_silent=answer == "silence") as port:
        if answer == "silence":
            monkeypatch.setattr(mqtt_client, "CONNECT_S", 2.0)
            with pytest.raises(ConnectFailed, match=r"add \?version=3.1.1"):
                async with broker.connect(f"mqtt://127.0.0.1:{port}"):
                    pass
            monkeypatch.undo()
        demanded = "?version=3.1.1" if answer == "silence" else ""
        async with broker.connect(f"mqtt://127.0.0.1:{port}{demanded}") as bus:
            await bus.put(RECORD, b"1", revision=0)
            assert (await bus.publish(topics.update("job-1", 1, "client-1", 1), b"1")).stored
            assert await bus.get(RECORD) is not None


async def test_version_3_1_1_is_spoken_if_the_address_demands_it(mosquitto: Mosquitto) -> None:
    assert await mqtt_client.detect_version(BrokerUrl.parse(mosquitto.url), "asks") == MQTTv5
    assert await mqtt_client.detect_version(BrokerUrl.parse(f"{mosquitto.url}?version=5"), "asks") == MQTTv5
    older = f"{mosquitto.url}?version=3.1.1"
    assert await mqtt_client.detect_version(BrokerUrl.parse(older), "asks") == MQTTv311
    async with broker.connect(older) as one, broker.connect(mosquitto.url) as other:
        async with one.subscribe(PROGRESS, start="new") as events:
            await other.publish(PROGRESS, b"event")
            assert await (await next_event(events)).read() == b"event"
        revision = await one.put(RECORD, b"1", revision=0)
        with pytest.raises(Conflict):
            await other.put(RECORD, b"2", revision=0)
        assert await other.put(RECORD, b"2", revision=revision) > revision


@contextlib.asynccontextmanager
async def older_broker(port: int, *, is_silent: bool) -> AsyncIterator[int]:
    """Run a broker that knows only MQTT 3.1.1, before one that knows more; yield its port.

    Args:
        port: of the broker behind it, on the loopback address.
        is_silent: whether it says nothing to a connection of MQTT 5, instead of ending it.
    """
    connections = set[asyncio.Task[None]]()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        header = await reader.read(64)
        # MQTT 3.1.1, section 3.1.2: the level follows the name of the protocol.
        if header[header.index(b"MQTT") + 4] == MQTTv5:
            if is_silent:
                await reader.read()
            writer.close()
            return
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        behind_writer.write(header)
        await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*connections)


async def test_a_client_that_stopped_connecting_can_be_closed_twice() -> None:
    """Regression: close raised the error that had ended the connecting, and the link never recovered."""
    reached, left = asyncio.Event(), asyncio.Event()

    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        reached.set()
        await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_server(says_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = Client(BrokerUrl.parse(f"mqtt://127.0.0.1:{port}"), "given-up", version=5, receive=lambda _: None)
        opening = asyncio.create_task(client.open())
        await reached.wait()
        await asyncio.get_running_loop().run_in_executor(None, int)  # the thread that connected has returned
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        await client.close()
        await asyncio.wait_for(left.wait(), SOON_S)
