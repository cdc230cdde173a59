"""Behaviour when the server crashes, freezes or closes the connection."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from nats.aio.client import Client

import broker
from broker import Broker, Delivery, reconnect, topics
from broker.errors import Disconnected, PayloadTooLarge
from broker.nats.server import NatsServer
from tests.support.values import payload_of

SOON_S = 60.0
PROGRESS = topics.progress("job-1", "round", "completed")
TASK = topics.task("openfaas", "client-1")

Connect = Callable[[], AbstractAsyncContextManager[Broker]]


@pytest.fixture
def connect(connect_nats: Connect) -> Connect:
    return connect_nats


async def crash(server: NatsServer) -> None:
    await server.kill()
    await server.start()


async def payloads(events: AsyncIterator[Delivery], count: int) -> list[bytes]:
    async with asyncio.timeout(SOON_S):
        return [await (await anext(events)).read() for _ in range(count)]


async def test_a_replay_neither_loses_nor_repeats_over_crashes(nats_server: NatsServer, connect: Connect) -> None:
    async with connect() as bus, bus.subscribe(topics.job_progress("job-1"), prefetch=4) as events:
        seen = []
        for crashes in range(3):
            for number in range(10):
                await bus.publish(PROGRESS, f"{crashes}.{number}".encode())
            seen += await payloads(events, 5)
            await crash(nats_server)
        seen += await payloads(events, 15)
    assert seen == [f"{crashes}.{number}".encode() for crashes in range(3) for number in range(10)]


async def test_a_new_replay_misses_nothing_after_a_crash(nats_server: NatsServer, connect: Connect) -> None:
    async with connect() as bus:
        await bus.publish(PROGRESS, b"old")
        async with bus.subscribe(topics.job_progress("job-1"), start="new") as events:
            await nats_server.kill()
            publishing = asyncio.ensure_future(bus.publish(PROGRESS, b"new"))
            await nats_server.start()
            assert await payloads(events, 1) == [b"new"]
            assert (await publishing).sequence == 2


async def test_a_durable_loses_nothing_over_a_crash(nats_server: NatsServer, connect: Connect) -> None:
    async with connect() as bus, bus.subscribe(topics.platform_tasks("openfaas"), durable="bridge") as events:
        done: set[bytes] = set()
        for number in range(20):
            await bus.publish(TASK, str(number).encode())
        for number in range(20):
            event = await asyncio.wait_for(anext(events), SOON_S)
            if number == 10:
                await crash(nats_server)
            if number % 2:
                await event.ack()
                done.add(await event.read())
        async with asyncio.timeout(SOON_S):
            while len(done) < 20:
                event = await anext(events)
                await event.ack()
                done.add(await event.read())


async def test_a_watcher_sees_the_change_made_after_a_crash(nats_server: NatsServer, connect: Connect) -> None:
    record = topics.job_record("job-1")
    async with connect() as bus, bus.watch("fl.rounds.*") as values:
        revision = await bus.put(record, b"1", revision=0)
        assert payload_of(await asyncio.wait_for(anext(values), SOON_S)) == b"1"
        await crash(nats_server)
        await bus.put(record, b"2", revision=revision)
        assert payload_of(await asyncio.wait_for(anext(values), SOON_S)) == b"2"


async def test_a_call_during_an_outage_is_completed_after_it(nats_server: NatsServer, connect: Connect) -> None:
    update, record = topics.update("job-1", 1, "client-1", 1), topics.job_record("job-1")
    async with connect() as bus:
        await bus.put(record, b"1")
        await nats_server.kill()
        calls = [
            asyncio.ensure_future(call)
            for call in (bus.publish(update, os.urandom(5 << 20)), bus.publish(TASK, b"2"), bus.get(record))
        ]
        done, _ = await asyncio.wait(calls, timeout=0.3)
        assert not done
        await nats_server.start()
        async with asyncio.timeout(SOON_S):
            receipts = await asyncio.gather(*calls)
    assert receipts[0] == broker.Receipt(1)
    assert receipts[1] == broker.Receipt(1)
    assert receipts[2] == broker.Value(record, b"1", 1)


async def test_a_long_outage_is_an_error(
    nats_server: NatsServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "CALL_S", 0.3)
    async with connect() as bus:
        await nats_server.kill()
        with pytest.raises(Disconnected):
            await bus.publish(TASK, b"1")


async def test_a_frozen_server_is_waited_for(nats_server: NatsServer, connect: Connect) -> None:
    async with connect() as bus:
        os.kill(nats_server.pid, signal.SIGSTOP)
        try:
            publishing = asyncio.ensure_future(bus.publish(TASK, b"1"))
            done, _ = await asyncio.wait((publishing,), timeout=0.3)
            assert not done
        finally:
            os.kill(nats_server.pid, signal.SIGCONT)
        assert (await asyncio.wait_for(publishing, SOON_S)).sequence == 1


async def test_a_compare_and_set_whose_receipt_got_lost_is_no_conflict(connect: Connect) -> None:
    record = topics.job_record("job-1")
    async with connect() as bus:
        reconnect = bus._link  # type: ignore[attr-defined]
        connection = await reconnect.connection()
        request = connection.request

        async def lossy(subject: str, *args: object, **options: object) -> object:
            answer = await request(subject, *args, **options)
            if subject == record:
                connection.request = request
                raise Disconnected("the receipt got lost")
            return answer

        connection.request = lossy
        assert await bus.put(record, b"1", revision=0) == 1
        assert await bus.get(record) == broker.Value(record, b"1", 1)


async def test_a_publish_whose_receipt_got_lost_is_stored_once(connect: Connect) -> None:
    async with connect() as bus:
        connection = await bus._link.connection()  # type: ignore[attr-defined]
        attempts = []

        def lossy(send: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
            async def losing(*args: object, **options: object) -> object:
                attempts.append(args)
                answer = await send(*args, **options)
                if len(attempts) == 1:
                    raise Disconnected("the receipt got lost")
                return answer

            return losing

        connection.request, connection.request_all = lossy(connection.request), lossy(connection.request_all)
        assert await bus.publish(PROGRESS, b"1") == broker.Receipt(1)
        assert await bus.publish(PROGRESS, b"2") == broker.Receipt(2)
        assert len(attempts) == 3


async def test_a_client_that_the_server_threw_out_comes_back(connect: Connect) -> None:
    async with connect() as bus, bus.subscribe(topics.job_progress("job-1")) as events:
        client = await client_of(bus)
        # nats-py closes for good on this one, whatever its options for reconnecting say.
        client._max_payload = 1 << 30
        await client.publish("fl.progress.job-1.too.large", bytes(9 << 20))
        await bus.publish(PROGRESS, b"1")
        assert await payloads(events, 1) == [b"1"]
        assert client.is_closed
        assert await client_of(bus) is not client


async def test_a_message_above_the_servers_limit_is_refused_before_it_is_sent(connect: Connect) -> None:
    async with connect() as bus:
        connection = await bus._link.connection()  # type: ignore[attr-defined]
        with pytest.raises(PayloadTooLarge):
            await connection.send(PROGRESS, bytes(9 << 20))
        assert not connection.lost.is_set()


async def client_of(bus: Broker) -> Client:
    client = (await bus._link.connection())._client  # type: ignore[attr-defined]
    assert isinstance(client, Client)
    return client


async def test_a_reader_catches_up_over_a_crash_a_purge_and_large_payloads(
    nats_server: NatsServer, connect: Connect
) -> None:
    large, taken = os.urandom(5 << 20), list[bytes]()

    async def take(events: AsyncIterator[Delivery]) -> None:
        async for event in events:
            taken.append(await event.read())

    async with connect() as bus, bus.subscribe(topics.job_progress("job-1"), prefetch=256) as events:
        for payload in (b"1", large, b"3"):
            await bus.publish(PROGRESS, payload)
        catching_up = asyncio.create_task(events.catch_up())
        await nats_server.kill()
        assert not catching_up.done()
        await nats_server.start()
        taking = asyncio.create_task(take(events))
        await asyncio.wait_for(catching_up, SOON_S)
        assert taken == [b"1", large, b"3"]
        taking.cancel()
        # Nobody reads any more, and what was still to come is deleted.
        await bus.publish(PROGRESS, b"4")
        catching_up = asyncio.create_task(events.catch_up())
        await bus.purge(topics.job_progress("job-1"))
        await asyncio.wait_for(catching_up, SOON_S)
