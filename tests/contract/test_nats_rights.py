"""A user without the necessary rights gets an error at once, never a timeout."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import broker
from broker import Broker, Delivery, topics
from broker.errors import BadUrl, ConnectFailed, Denied
from broker.messages import codec
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobFailed
from broker.nats.server import NatsServer
from fedkeeper.sdk import Client

ACK_WAIT_S = 0.5
AT_ONCE_S = 20.0
"""Less than the 30 s after which a call is given up."""

PROGRESS = topics.progress("job-1", "round", "completed")


async def refusal(url: str, within_s: float = AT_ONCE_S) -> ConnectFailed:
    async with asyncio.timeout(within_s):
        with pytest.raises(ConnectFailed) as failed:
            async with broker.connect(url):
                pass
    return failed.value


@pytest.mark.parametrize("url", ["nats://u@127.0.0.1:1?password_file=/nowhere", "tls://127.0.0.1:1?ca_file=/nowhere"])
async def test_a_missing_file_is_named(url: str) -> None:
    with pytest.raises(BadUrl, match="/nowhere"):
        async with broker.connect(url):
            pass


async def test_no_password_is_sent_where_encryption_was_asked_for_and_not_offered(nats_server: NatsServer) -> None:
    error = await refusal(f"tls://fedkeeper:hunter2@127.0.0.1:{nats_server.port}")
    assert "TLS" in str(error)


CLIENT_RIGHTS = """
authorization {
  users: [
    { user: "fedkeeper", password: "admin" },
    { user: "client-7", password: "secret", permissions: {
        publish: ["fl.updates.*.*.client-7.*", "$JS.API.DIRECT.GET.FEDKEEPER_MODELS.fl.models.>",
                  "$JS.API.CONSUMER.MSG.NEXT.FEDKEEPER_TASKS.client-7", "$JS.ACK.FEDKEEPER_TASKS.client-7.>"],
        subscribe: ["_INBOX_client-7.>"] } },
    { user: "viewer", password: "secret", permissions: {
        publish: ["$JS.API.CONSUMER.*.FEDKEEPER_RECORDS.>", "$JS.API.CONSUMER.*.FEDKEEPER_PROGRESS.>",
                  "$JS.API.CONSUMER.MSG.NEXT.FEDKEEPER_RECORDS.>", "$JS.API.CONSUMER.MSG.NEXT.FEDKEEPER_PROGRESS.>",
                  "$JS.API.DIRECT.GET.FEDKEEPER_RECORDS.fl.rounds.*",
                  "$JS.API.DIRECT.GET.FEDKEEPER_PROGRESS.fl.progress.>",
                  "$JS.API.DIRECT.GET.FEDKEEPER_MODELS.fl.models.>"],
        subscribe: ["_INBOX_viewer.>"] } },
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
            async with asyncio.timeout(AT_ONCE_S), bus.subscribe(tasks, durable="client-7") as events:
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
        lambda bus: bus.get(topics.secret("job-1")),
        lambda bus: bus.put(topics.secret("job-1"), b"forged"),
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
    async with as_user(strict_server, "client-7", "secret") as bus, asyncio.timeout(AT_ONCE_S):
        with pytest.raises(Denied):
            await attempt(bus)


async def test_a_user_that_lists_and_watches_jobs_does_not_see_their_secrets(strict_server: NatsServer) -> None:
    record, secret, model = topics.job_record("job-1"), topics.secret("job-1"), topics.model("job-1", "ab" * 32)
    async with as_user(strict_server, "fedkeeper", "admin") as admin:
        await admin.put(secret, b"unguessable")
        await admin.put(record, b"{}")
        await admin.put(model, b"model")
        await admin.publish(PROGRESS, b"1")
    async with as_user(strict_server, "viewer", "secret") as bus, asyncio.timeout(30.0):
        assert list(await bus.snapshot(topics.job_record(topics.ANY))) == [record]
        assert await bus.get(record) is not None
        assert await bus.get(model) is not None
        await _subscribed(bus.subscribe(topics.job_progress(topics.ANY)))
        ended = JobRecord(id="job-1", job=Job(), phase="failed", reason="no clients", announced=True)
        async with as_user(strict_server, "fedkeeper", "admin") as admin:
            await admin.put(record, codec.encode(ended))
        assert [update.event async for update in Client(bus).watch("job-1")] == [JobFailed(reason="no clients")]
        with pytest.raises(Denied):
            await bus.get(secret)
        with pytest.raises(Denied):
            await _subscribed(bus.subscribe(topics.secret(topics.ANY)))


async def _subscribed(subscription: AbstractAsyncContextManager[AsyncIterator[Delivery]]) -> None:
    async with subscription as events:
        await anext(events)


async def test_a_user_without_the_right_to_receive_replies_is_denied_at_once(strict_server: NatsServer) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(Denied):
            async with as_user(strict_server, "mute", "secret") as bus:
                await bus.publish(PROGRESS, b"1")
