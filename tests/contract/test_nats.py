"""JetStream's streams, limits and errors, and replies to requests."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

import broker
from broker import Broker, BrokerUrl, Delivery, families, topics
from broker.errors import BrokerError, ConnectFailed, StorageFull
from broker.nats.errors import map_connect_errors, map_errors
from broker.nats.server import NatsServer
from broker.nats.streams import settings
from broker.url import Host
from tests.support.fakes import running

ACK_WAIT_S = 0.5
SOON_S = 60.0
AT_ONCE_S = 20.0
"""Less than the 30 s after which a call is given up."""

PROGRESS = topics.progress("job-1", "round", "completed")

Connect = Callable[[], AbstractAsyncContextManager[Broker]]


@pytest.fixture
def connect(connect_nats: Connect) -> Connect:
    return connect_nats


async def payloads(events: AsyncIterator[Delivery], count: int) -> list[bytes]:
    async with asyncio.timeout(SOON_S):
        return [await (await anext(events)).read() for _ in range(count)]


async def fill(bus: Broker, topic_of: Callable[[int], str], size: int = 1 << 20) -> None:
    for number in range(5000):
        await bus.publish(topic_of(number), bytes(size))


async def test_a_full_stream_is_an_error_at_once(connect: Connect) -> None:
    async with connect() as bus:
        with pytest.raises(StorageFull):
            await fill(bus, lambda number: topics.task("openfaas", f"client-{number}"))
        # Other streams are not concerned.
        await bus.publish(PROGRESS, b"1")


async def without_reservations(server: NatsServer) -> None:
    """Create our streams as an operator may: with nothing reserved, so that they fit into a small store."""
    client = await bare_client(server)
    for family in families.FAMILIES:
        stream = settings(family, f"FEDKEEPER_{family.name}") | {"max_bytes": -1}
        await client.request(f"$JS.API.STREAM.CREATE.{stream['name']}", json.dumps(stream).encode(), timeout=60)
    await client.close()


async def test_a_full_server_is_an_error_at_once(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, max_file_bytes=40 << 20) as server:
        await without_reservations(server)
        async with broker.connect(server.url) as bus, asyncio.timeout(AT_ONCE_S):
            with pytest.raises(StorageFull):
                await fill(bus, lambda number: topics.update("job-1", 1, f"client-{number}", 1))


def updates_of(job: str) -> Callable[[int], str]:
    return lambda number: topics.update(job, 1, f"client-{number}", 1)


async def write_weights(bus: Broker) -> None:
    """Try again and again, as functions do whose updates find no room."""
    for number in itertools.count():
        with contextlib.suppress(StorageFull):
            await bus.publish(topics.update("job-1", 1, f"late-{number}", 1), bytes(4 << 20))
        await asyncio.sleep(0.01)


async def test_records_and_events_have_room_that_weights_can_not_take(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, max_file_bytes=40 << 20) as server:
        await without_reservations(server)
        async with broker.connect(server.url) as bus, asyncio.timeout(AT_ONCE_S):
            await bus.hold_reserve()
            for job, size in (("large", 4 << 20), ("small", 1 << 10)):
                with pytest.raises(StorageFull):
                    await fill(bus, updates_of(job), size)
            async with running(write_weights(bus)):
                for round_ in range(20):
                    await bus.put(topics.job_record("job-1"), bytes(100_000))
                    await bus.publish(PROGRESS, b"%d" % round_)
            await bus.purge(topics.job_updates("large"))
            await bus.hold_reserve()
            with pytest.raises(StorageFull):
                await fill(bus, lambda number: topics.update("job-1", 1, f"client-{number}", 1))
            await bus.publish(PROGRESS, b"again")


async def test_a_server_without_room_for_the_streams_is_an_error(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, max_file_bytes=40 << 20) as server:
        with pytest.raises(StorageFull):
            async with broker.connect(server.url):
                pass


async def test_a_bare_request_gets_the_answer_of_any_server_of_the_queue(
    nats_server: NatsServer, connect: Connect
) -> None:
    ready = asyncio.Barrier(3)

    async def serve(bus: Broker) -> None:
        async with bus.subscribe(topics.SUBMIT, durable="server") as events:
            await ready.wait()
            async for event in events:
                await event.answer(b"accepted " + await event.read())
                await event.ack()

    requester = await bare_client(nats_server)
    try:
        async with connect() as bus, connect() as standby, asyncio.TaskGroup() as group:
            servers = [group.create_task(serve(server)) for server in (bus, standby)]
            await ready.wait()
            replies = await asyncio.gather(
                *(requester.request(topics.SUBMIT, str(n).encode(), timeout=SOON_S) for n in range(20))
            )
            for server in servers:
                server.cancel()
    finally:
        await requester.close()
    assert [reply.data for reply in replies] == [b"accepted %d" % number for number in range(20)]


async def test_a_requester_gets_one_answer_and_no_other(nats_server: NatsServer, connect: Connect) -> None:
    requester = await bare_client(nats_server)
    try:
        async with connect() as bus, bus.subscribe(topics.SUBMIT, durable="server") as events:
            inbox = requester.new_inbox()
            replies = await requester.subscribe(inbox)
            await requester.publish(topics.SUBMIT, b"{}", reply=inbox)
            event = await asyncio.wait_for(anext(events), SOON_S)
            await event.answer(b"accepted")
            await event.ack()
            assert (await replies.next_msg(timeout=SOON_S)).data == b"accepted"
            with pytest.raises(nats.errors.TimeoutError):
                await replies.next_msg(timeout=ACK_WAIT_S)
    finally:
        await requester.close()


async def test_a_requester_can_not_make_a_server_write_to_a_topic(nats_server: NatsServer, connect: Connect) -> None:
    victim = topics.cancellation("victim")
    requester = await bare_client(nats_server)
    try:
        async with connect() as bus, bus.subscribe(topics.SUBMIT, durable="server") as events:
            await requester.publish(topics.SUBMIT, b"{}", reply=victim)
            inbox = requester.new_inbox()
            replies = await requester.subscribe(inbox)
            await requester.publish(topics.SUBMIT, b"[]", reply=inbox)
            for _ in range(2):
                event = await asyncio.wait_for(anext(events), SOON_S)
                await event.answer(b"accepted")
                await event.ack()
            # Answers are sent in order: the first one was, if it was.
            assert (await replies.next_msg(timeout=SOON_S)).data == b"accepted"
            await bus.publish(victim, b"by its owner")
            async with bus.subscribe(victim) as cancellations:
                event = await asyncio.wait_for(anext(cancellations), SOON_S)
                assert await event.read() == b"by its owner"
    finally:
        await requester.close()


async def bare_client(server: NatsServer) -> Client:
    password = server.password_file.read_text(encoding="utf-8")
    return await nats.connect(f"nats://127.0.0.1:{server.port}", user="fedkeeper", password=password)


async def test_many_may_connect_first_at_the_same_time(nats_server: NatsServer, connect: Connect) -> None:
    async def once() -> None:
        async with connect() as bus:
            await bus.publish(PROGRESS, b"1")

    await asyncio.gather(*(once() for _ in range(5)))
    async with connect() as bus, bus.subscribe(topics.job_progress("job-1")) as events:
        assert len(await payloads(events, 5)) == 5
    assert nats_server.pid


async def test_a_changed_stream_is_changed_back_but_for_the_operators_settings(
    nats_server: NatsServer, connect: Connect
) -> None:
    async with connect():
        pass
    client = await bare_client(nats_server)
    try:
        manager = client.jsm()
        config = (await manager.stream_info("FEDKEEPER_PROGRESS")).config
        await manager.update_stream(config.evolve(max_age=600.0, max_bytes=1 << 20))
        async with connect():
            pass
        repaired = (await manager.stream_info("FEDKEEPER_PROGRESS")).config
    finally:
        await client.close()
    assert (repaired.max_age, repaired.max_bytes) == (30 * 86_400.0, 1 << 20)


HERE = BrokerUrl.parse("nats://host"), Host("host", 4222)


def test_no_error_of_nats_py_is_left_unmapped() -> None:
    for error in _all_errors(nats.errors.Error):
        # Made without the arguments that its text is made of.
        readable: Any = type(error.__name__, (error,), {"__str__": lambda _: "reason"})
        instance: Exception = readable.__new__(readable)
        with pytest.raises(BrokerError) as raised, map_errors("fl.topic"):
            raise instance
        assert raised.value.__cause__ is instance
        with pytest.raises(ConnectFailed), map_connect_errors(*HERE, within_s=1.0):
            raise instance


def _all_errors(root: type[Exception]) -> set[type[Exception]]:
    below = {error for child in root.__subclasses__() for error in _all_errors(child)}
    return {root} | below
