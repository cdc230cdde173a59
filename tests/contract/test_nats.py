"""What only a server that crashes, refuses and forgets can show."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

import broker
from broker import Broker, Delivery, nats_link, topics
from broker.embedded import NatsServer
from broker.errors import (
    BrokerError,
    ConnectFailed,
    Denied,
    Disconnected,
    PayloadTooLarge,
    StorageFull,
)
from broker.nats_errors import mapped, mapped_connect
from broker.nats_streams import settings

ACK_WAIT_S = 0.5
SOON_S = 10.0
PROGRESS = topics.progress("job-1", "round", "completed")
TASK = topics.task("openfaas", "client-1")

Connect = Callable[[], AbstractAsyncContextManager[Broker]]


@pytest.fixture
def connect(nats_server: NatsServer) -> Connect:
    return lambda: broker.connect(nats_server.url, ack_wait_s=ACK_WAIT_S)


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
    pointer = topics.pointer("job-1")
    async with connect() as bus, bus.watch("fl.rounds.*") as values:
        revision = await bus.put(pointer, b"1", revision=0)
        assert (await asyncio.wait_for(anext(values), SOON_S)).payload == b"1"
        await crash(nats_server)
        await bus.put(pointer, b"2", revision=revision)
        assert (await asyncio.wait_for(anext(values), SOON_S)).payload == b"2"


async def test_what_is_called_during_an_outage_is_done_after_it(nats_server: NatsServer, connect: Connect) -> None:
    update, pointer = topics.update("job-1", 1, "client-1", 1), topics.pointer("job-1")
    async with connect() as bus:
        await bus.put(pointer, b"1")
        await nats_server.kill()
        calls = [
            asyncio.ensure_future(call)
            for call in (bus.publish(update, os.urandom(5 << 20)), bus.publish(TASK, b"2"), bus.get(pointer))
        ]
        done, _ = await asyncio.wait(calls, timeout=0.3)
        assert not done
        await nats_server.start()
        async with asyncio.timeout(SOON_S):
            receipts = await asyncio.gather(*calls)
    assert receipts[0] == broker.Receipt(1)
    assert receipts[1] == broker.Receipt(1)
    assert receipts[2] == broker.Value(pointer, b"1", 1)


async def test_an_outage_without_end_is_an_error_in_the_end(
    nats_server: NatsServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_link, "CALL_S", 0.3)
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
    pointer = topics.pointer("job-1")
    async with connect() as bus:
        link = bus._link  # type: ignore[attr-defined]
        connection = await link.connection()
        request = connection.request

        async def lossy(subject: str, *args: object) -> object:
            answer = await request(subject, *args)
            if subject == pointer:
                connection.request = request
                raise Disconnected("the receipt got lost")
            return answer

        connection.request = lossy
        assert await bus.put(pointer, b"1", revision=0) == 1
        assert await bus.get(pointer) == broker.Value(pointer, b"1", 1)


async def test_a_publish_whose_receipt_got_lost_is_stored_once(connect: Connect) -> None:
    async with connect() as bus:
        connection = await bus._link.connection()  # type: ignore[attr-defined]
        request, attempts = connection.request, []

        async def lossy(subject: str, *args: object) -> object:
            attempts.append(subject)
            answer = await request(subject, *args)
            if len(attempts) == 1:
                raise Disconnected("the receipt got lost")
            return answer

        connection.request = lossy
        assert await bus.publish(PROGRESS, b"1") == broker.Receipt(1)
        assert await bus.publish(PROGRESS, b"2") == broker.Receipt(2)
        assert len(attempts) == 3


async def test_a_client_that_the_server_threw_out_comes_back(connect: Connect) -> None:
    async with connect() as bus, bus.subscribe(topics.job_progress("job-1")) as events:
        client = await client_of(bus)
        # nats-py closes for good on this one, whatever it is told about reconnecting.
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


# Refusals


async def refusal(url: str, within_s: float = 2.0) -> ConnectFailed:
    async with asyncio.timeout(within_s):
        with pytest.raises(ConnectFailed) as failed:
            async with broker.connect(url):
                pass
    return failed.value


async def test_wrong_credentials_are_refused_at_once_and_not_shown(nats_server: NatsServer) -> None:
    error = await refusal(f"nats://fedkeeper:hunter2@127.0.0.1:{nats_server.port}")
    assert "wrong user or password" in str(error)
    assert "hunter2" not in str(error) + repr(error.__cause__)


async def test_missing_credentials_are_refused_at_once(nats_server: NatsServer) -> None:
    assert "wrong user or password" in str(await refusal(f"nats://127.0.0.1:{nats_server.port}"))


async def test_an_address_where_nobody_listens_is_an_error_at_once(nats_server: NatsServer) -> None:
    await nats_server.kill()
    assert f"127.0.0.1:{nats_server.port}" in str(await refusal(nats_server.url))


async def test_no_password_is_sent_where_encryption_was_asked_for_and_not_offered(nats_server: NatsServer) -> None:
    error = await refusal(f"tls://fedkeeper:hunter2@127.0.0.1:{nats_server.port}")
    assert "TLS" in str(error)


CLIENT_RIGHTS = """
authorization {
  users: [
    { user: "fedkeeper", password: "admin" },
    { user: "client-7", password: "secret", permissions: {
        publish: ["fl.updates.*.*.client-7.*", "$JS.API.DIRECT.GET.MODELS.fl.models.>",
                  "$JS.API.CONSUMER.MSG.NEXT.TASKS.client-7", "$JS.ACK.TASKS.client-7.>"],
        subscribe: ["_INBOX_client-7.>"] } },
    { user: "mute", password: "secret", permissions: { subscribe: { deny: [">"] } } },
  ]
}
"""


@pytest.fixture
async def strict_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server whose client-7 may do what a function has to do and nothing else."""
    server = NatsServer(tmp_path / "strict", max_file_bytes=2 << 30, settings=CLIENT_RIGHTS)
    await server.start()
    yield server
    await server.kill()


def as_user(server: NatsServer, user: str, password: str) -> AbstractAsyncContextManager[Broker]:
    return broker.connect(f"nats://{user}:{password}@127.0.0.1:{server.port}", ack_wait_s=ACK_WAIT_S)


async def test_a_client_with_few_rights_does_its_work(strict_server: NatsServer) -> None:
    model, update = topics.model("job-1", "ab" * 32), topics.update("job-1", 1, "client-7", 1)
    tasks = topics.task("openfaas", "client-7")
    async with as_user(strict_server, "fedkeeper", "admin") as admin:
        await admin.put(model, b"model")
        await admin.publish(tasks, b"train")
        async with admin.subscribe(tasks, durable="client-7"):
            pass
        async with as_user(strict_server, "client-7", "secret") as bus:
            async with asyncio.timeout(2.0), bus.subscribe(tasks, durable="client-7") as events:
                event = await anext(events)
                await event.ack()
            assert await bus.get(model) == broker.Value(model, b"model", 1)
            assert (await bus.publish(update, b"update")).stored
            # Whose copy was first is not theirs to see.
            assert await bus.publish(update, b"again") == broker.Receipt(0, stored=False)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda bus: bus.publish(topics.update("job-1", 1, "client-8", 1), b"forged"),
        lambda bus: bus.put(topics.model("job-1", "ab" * 32), b"forged"),
        lambda bus: bus.publish(topics.SUBMIT, b"{}"),
        lambda bus: bus.get(topics.update("job-1", 1, "client-7", 1)),
        lambda bus: bus.snapshot("fl.clients.*"),
        lambda bus: bus.purge("fl.updates.>"),
        lambda bus: _subscribed(bus.subscribe("fl.updates.>")),
        lambda bus: _subscribed(bus.subscribe("fl.tasks.>", durable="everything")),
    ],
)
async def test_what_is_forbidden_is_denied_at_once(
    strict_server: NatsServer, attempt: Callable[[Broker], Awaitable[object]]
) -> None:
    async with as_user(strict_server, "fedkeeper", "admin"):
        pass
    async with as_user(strict_server, "client-7", "secret") as bus, asyncio.timeout(1.0):
        with pytest.raises(Denied):
            await attempt(bus)


async def _subscribed(subscription: AbstractAsyncContextManager[AsyncIterator[Delivery]]) -> None:
    async with subscription as events:
        await anext(events)


async def test_someone_who_may_hear_no_answers_is_denied_at_once(strict_server: NatsServer) -> None:
    async with asyncio.timeout(2.0):
        with pytest.raises(Denied):
            async with as_user(strict_server, "mute", "secret") as bus:
                await bus.publish(PROGRESS, b"1")


async def fill(bus: Broker, topic_of: Callable[[int], str]) -> None:
    for number in range(100):
        await bus.publish(topic_of(number), bytes(4 << 20))


async def test_a_full_stream_is_an_error_at_once(connect: Connect) -> None:
    async with connect() as bus:
        with pytest.raises(StorageFull):
            await fill(bus, lambda number: topics.task("openfaas", f"client-{number}"))
        # Other streams are not concerned.
        await bus.publish(PROGRESS, b"1")


async def test_a_full_server_is_an_error_at_once(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, max_file_bytes=40 << 20) as server:
        client = await bare_client(server)
        for family in topics.FAMILIES:  # an operator's streams, with nothing reserved
            stream = settings(family) | {"max_bytes": -1}
            await client.request(f"$JS.API.STREAM.CREATE.{family.name}", json.dumps(stream).encode())
        await client.close()
        async with broker.connect(server.url) as bus, asyncio.timeout(SOON_S):
            with pytest.raises(StorageFull):
                await fill(bus, lambda number: topics.update("job-1", 1, f"client-{number}", 1))


async def test_a_server_without_room_for_the_streams_says_so(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, max_file_bytes=40 << 20) as server:
        with pytest.raises(StorageFull):
            async with broker.connect(server.url):
                pass


# Answers


async def test_a_bare_request_gets_the_answer_of_whoever_handles_it(nats_server: NatsServer, connect: Connect) -> None:
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
            servers = [group.create_task(serve(one)) for one in (bus, standby)]
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


async def bare_client(server: NatsServer) -> Client:
    password = server.password_file.read_text(encoding="utf-8")
    return await nats.connect(f"nats://127.0.0.1:{server.port}", user="fedkeeper", password=password)


# Streams


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
        config = (await manager.stream_info("PROGRESS")).config
        await manager.update_stream(config.evolve(max_age=600.0, max_bytes=1 << 20))
        async with connect():
            pass
        repaired = (await manager.stream_info("PROGRESS")).config
    finally:
        await client.close()
    assert (repaired.max_age, repaired.max_bytes) == (30 * 86_400.0, 1 << 20)


def test_no_error_of_nats_py_is_left_unmapped() -> None:
    for error in _all_errors(nats.errors.Error):
        # Made without the arguments that its text is made of.
        readable = type(error.__name__, (error,), {"__str__": lambda _: "reason"})
        instance = readable.__new__(readable)
        with pytest.raises(BrokerError) as raised, mapped("fl.topic"):
            raise instance
        assert raised.value.__cause__ is instance
        with pytest.raises(ConnectFailed), mapped_connect("nats://host:4222", ["refused"]):
            raise instance


def _all_errors(root: type[Exception]) -> set[type[Exception]]:
    below = {error for child in root.__subclasses__() for error in _all_errors(child)}
    return {root} | below
