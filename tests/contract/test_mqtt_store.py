"""The mark of a broker with our retained messages."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import broker
from broker import BrokerUrl, topics
from broker.errors import BrokerError, ConnectFailed, NoSystem, OldStore, Unsupported
from broker.mqtt import link as mqtt_link
from broker.mqtt.link import Link
from tests.support.brokers import Mosquitto
from tests.support.paths import REPOSITORY

SOON_S = 10.0
MARK = "fk/store"
RECORD = topics.job_record("job-1")
OLD = ("fk/groups/server", "fl/rounds/job-1")


@pytest.fixture(params=["mosquitto", "nats-mqtt"])
def kind(request: pytest.FixtureRequest) -> str:
    """Brokers that speak MQTT."""
    name: str = request.param
    return name


@pytest.fixture
async def link(url: str) -> AsyncIterator[Link]:
    """To the broker, without a mark."""
    async with mqtt_link.open_link(BrokerUrl.parse(url), "plain") as link:
        yield link


async def retained(link: Link, *topics: str) -> dict[str, bytes]:
    """Return the retained messages of these topics, once each has one: nats-server shows them with a delay."""
    payloads: dict[str, bytes] = {}
    async with asyncio.timeout(SOON_S):
        while len(payloads) < len(topics):
            payloads = await link.fetch(*topics)
    return payloads


async def refusal(url: str, *, provision: bool = True) -> BrokerError:
    with pytest.raises(BrokerError) as refused:
        async with asyncio.timeout(SOON_S), broker.connect(url, provision=provision):
            pass
    return refused.value


async def test_a_fresh_broker_gets_the_mark(url: str, link: Link) -> None:
    async with broker.connect(url):
        payloads = await retained(link, MARK)
    mark = json.loads(payloads[MARK])
    assert mark["schema"] == 1
    assert len(mark["id"]) == 16


async def test_what_has_the_mark_is_ours(url: str, link: Link) -> None:
    async with broker.connect(url) as bus:
        await bus.put(RECORD, b"1")
        await retained(link, MARK, "fl/rounds/job-1")
    for provision in (True, False):
        async with broker.connect(url, provision=provision) as bus:
            value = await bus.get(RECORD)
            assert value is not None
            assert value.payload == b"1"


@pytest.mark.parametrize("provision", [True, False])
@pytest.mark.parametrize("topic", OLD)
async def test_a_store_of_0_1_is_left_as_it_is(url: str, link: Link, topic: str, *, provision: bool) -> None:
    await link.publish(topic, b"theirs")
    await retained(link, topic)
    error = await refusal(url, provision=provision)
    assert isinstance(error, OldStore)
    assert f":{BrokerUrl.parse(url).port} holds a store of FedKeeper 0.1, which was left as it is" in str(error)
    assert "docs/mqtt.md" in str(error)
    everything = await link.fetch("fk/#", "fl/#")
    assert everything == {topic: b"theirs"}


async def test_a_user_that_only_reads_writes_no_mark(url: str, link: Link) -> None:
    error = await refusal(url, provision=False)
    assert isinstance(error, NoSystem)
    assert MARK in str(error)
    assert not await link.fetch("fk/#", "fl/#")


async def test_a_job_that_was_retained_before_any_server_ran_is_no_store(url: str, link: Link) -> None:
    await link.publish("fl/jobs/submit", b"{}")
    await retained(link, "fl/jobs/submit")
    async with broker.connect(url):
        await retained(link, MARK)


@pytest.mark.parametrize("mark", [b'{"schema": 2}', b"{}", b"something"])
async def test_what_another_version_stored_is_refused(url: str, link: Link, mark: bytes) -> None:
    await link.publish(MARK, mark)
    await retained(link, MARK)
    error = await refusal(url)
    assert isinstance(error, Unsupported)
    assert "another version of FedKeeper" in str(error)
    assert await retained(link, MARK) == {MARK: mark}


async def test_a_user_without_the_right_to_write_the_mark_can_work(tmp_path: Path) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic read fk/#\ntopic readwrite fl/progress/#\n", encoding="utf-8")
    server = Mosquitto(tmp_path / "data", f"acl_file {rights}")
    await server.start()
    try:
        async with broker.connect(server.url) as bus:
            assert (await bus.publish(topics.progress("job-1", "round", "completed"), b"1")).stored
    finally:
        await server.kill()


async def test_a_broker_that_does_not_return_what_it_retains_is_refused(tmp_path: Path) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic readwrite fk/claims/#\ntopic write fk/store\n", encoding="utf-8")
    server = Mosquitto(tmp_path / "data", f"acl_file {rights}")
    await server.start()
    try:
        error = await refusal(server.url)
    finally:
        await server.kill()
    assert isinstance(error, ConnectFailed)
    assert "does not return fk/store" in str(error)


async def test_the_documents_say_how_to_clear_it(mosquitto: Mosquitto) -> None:
    text = (REPOSITORY / "docs" / "mqtt.md").read_text(encoding="utf-8")
    (command,) = [line for line in text.splitlines() if line.startswith("mosquitto_sub") and "remove-retained" in line]
    async with mqtt_link.open_link(BrokerUrl.parse(mosquitto.url), "plain") as link:
        for topic in (*OLD, "fl/progress/job-1/job/accepted/1-0123456789abcdef"):
            await link.publish(topic, b"theirs")
        here = command.replace("mosquitto_sub ", f"mosquitto_sub -p {mosquitto.port} ").replace("-W 10", "-W 1")
        async with asyncio.timeout(60):
            while await link.fetch("fk/#", "fl/#"):
                clearing = await asyncio.create_subprocess_shell(here, stdout=asyncio.subprocess.DEVNULL)
                await clearing.wait()
    async with broker.connect(mosquitto.url):
        pass
