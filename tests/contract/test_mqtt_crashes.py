"""No message is lost when mosquitto crashes, freezes or disconnects us, if it writes its store at every change."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import broker
from broker import Broker, Delivery, reconnect, topics
from broker.deliveries import Deleted
from broker.errors import Disconnected
from broker.mqtt.store_check import StoreCheck
from tests.support.brokers import Mosquitto
from tests.support.values import payload_of

SOON_S = 60.0
PROGRESS = topics.progress("job-1", "round", "completed")
TASK = topics.task("openfaas", "client-1")
RECORD = topics.job_record("job-1")


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mosquitto]:
    # A counter that was written between `save` and `kill` would be lost, and that is what it is there to find.
    monkeypatch.setattr(StoreCheck, "note", lambda _: None)
    server = Mosquitto(tmp_path, on_changes=True)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def bus(server: Mosquitto) -> AsyncIterator[Broker]:
    async with broker.connect(server.url, ack_wait_s=0.8) as bus:
        yield bus


async def crash(server: Mosquitto) -> None:
    await server.save()
    await server.kill()
    await server.start()


async def payloads(events: AsyncIterator[Delivery], count: int) -> list[bytes]:
    async with asyncio.timeout(SOON_S):
        return [await (await anext(events)).read() for _ in range(count)]


async def test_a_replay_neither_loses_nor_repeats_over_crashes(server: Mosquitto, bus: Broker) -> None:
    async with bus.subscribe(topics.job_progress("job-1"), prefetch=4) as events:
        seen = []
        for crashes in range(3):
            for number in range(10):
                await bus.publish(PROGRESS, f"{crashes}.{number}".encode())
            seen += await payloads(events, 5)
            await crash(server)
        seen += await payloads(events, 15)
    assert seen == [f"{crashes}.{number}".encode() for crashes in range(3) for number in range(10)]


async def test_a_new_replay_misses_nothing_after_a_crash(server: Mosquitto, bus: Broker) -> None:
    await bus.publish(PROGRESS, b"old")
    async with bus.subscribe(topics.job_progress("job-1"), start="new") as events:
        await server.kill()
        publishing = asyncio.ensure_future(bus.publish(PROGRESS, b"new"))
        await server.start()
        assert await payloads(events, 1) == [b"new"]
        assert (await publishing).stored


async def test_a_durable_loses_nothing_over_a_crash(server: Mosquitto, bus: Broker) -> None:
    async with bus.subscribe(topics.platform_tasks("openfaas"), durable="bridge") as events:
        done: set[bytes] = set()
        for number in range(20):
            await bus.publish(TASK, str(number).encode())
        for number in range(20):
            event = await asyncio.wait_for(anext(events), SOON_S)
            if number == 10:
                await crash(server)
            if number % 2:
                await event.ack()
                done.add(await event.read())
        async with asyncio.timeout(SOON_S):
            while len(done) < 20:
                event = await anext(events)
                await event.ack()
                done.add(await event.read())


async def test_a_watcher_sees_what_changed_and_what_went_during_an_outage(server: Mosquitto, bus: Broker) -> None:
    gone = topics.job_record("job-2")
    async with broker.connect(server.url) as other, bus.watch("fl.rounds.*") as values:
        revision = await bus.put(RECORD, b"1", revision=0)
        assert payload_of(await asyncio.wait_for(anext(values), SOON_S)) == b"1"
        await other.put(gone, b"1")
        assert (await asyncio.wait_for(anext(values), SOON_S)).topic == gone
        await crash(server)
        await other.delete(gone)
        went = await asyncio.wait_for(anext(values), SOON_S)
        assert (went.topic, type(went)) == (gone, Deleted)
        await bus.put(RECORD, b"2", revision=revision)
        assert payload_of(await asyncio.wait_for(anext(values), SOON_S)) == b"2"


async def test_a_call_during_an_outage_is_completed_after_it(server: Mosquitto, bus: Broker) -> None:
    update = topics.update("job-1", 1, "client-1", 1)
    await bus.put(RECORD, b"1")
    await server.save()
    await server.kill()
    calls = [
        asyncio.ensure_future(call)
        for call in (bus.publish(update, os.urandom(5 << 20)), bus.publish(TASK, b"2"), bus.get(RECORD))
    ]
    done, _ = await asyncio.wait(calls, timeout=0.3)
    assert not done
    await server.start()
    async with asyncio.timeout(SOON_S):
        first, second, value = await asyncio.gather(*calls)
    assert isinstance(first, broker.Receipt)
    assert isinstance(second, broker.Receipt)
    assert first.stored
    assert second.stored
    assert isinstance(value, broker.Value)
    assert value.payload == b"1"


async def test_a_long_outage_is_an_error(server: Mosquitto, bus: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "CALL_S", 0.5)
    await server.kill()
    async with asyncio.timeout(SOON_S):
        with pytest.raises(Disconnected):
            await bus.publish(PROGRESS, b"1")


async def test_a_frozen_broker_is_noticed_and_survived(server: Mosquitto, bus: Broker) -> None:
    async with bus.subscribe(topics.job_progress("job-1")) as events:
        server.signal(signal.SIGSTOP)
        publishing = asyncio.ensure_future(bus.publish(PROGRESS, b"1"))
        done, _ = await asyncio.wait((publishing,), timeout=0.3)
        assert not done
        server.signal(signal.SIGCONT)
        async with asyncio.timeout(SOON_S):
            assert (await publishing).stored
        assert await payloads(events, 1) == [b"1"]


async def test_a_plain_client_s_message_survives_a_crash(server: Mosquitto, bus: Broker) -> None:
    async with bus.subscribe(topics.SUBMIT, durable="server"):
        pass
    process = await asyncio.create_subprocess_exec(
        *("mosquitto_pub", "-p", str(server.port), "-q", "1", "-t", "fl/jobs/submit", "-m", "{}")
    )
    assert await process.wait() == 0
    await crash(server)
    async with bus.subscribe(topics.SUBMIT, durable="server") as events:
        assert await payloads(events, 1) == [b"{}"]
