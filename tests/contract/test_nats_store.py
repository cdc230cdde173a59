"""A NATS server that comes back with another store, can't write to its store, or has none."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nats
import pytest
from structlog.testing import capture_logs

import broker
from broker import Broker, topics
from broker.errors import ConnectFailed, StorageFull, StoreChanged
from broker.nats import connection, disk
from broker.nats import server as nats_server_module
from broker.nats.server import NatsServer, find_binary
from broker.support import processes
from broker.support.tasks import task_group
from tests.support.brokers import STORE_BYTES
from tests.support.fakes import soon
from tests.support.ports import free_port, listens

SOON_S = 60.0
AT_ONCE_S = 20.0
"""Less than the 30 s after which a call is given up."""

PROGRESS = topics.progress("job-1", "round", "completed")
RECORD = topics.job_record("job-1")
TASK = topics.task("local", "c1")
MODEL = topics.model("job-1", "ab" * 32)


async def use(bus: Broker) -> None:
    """Write to a stream of every kind."""
    await bus.publish(PROGRESS, b"1")
    await bus.put(RECORD, b"1")
    await bus.publish(TASK, b"1")
    await bus.put(MODEL, b"1")
    await bus.publish(topics.SUBMIT, b"1")
    await bus.put(topics.presence("local", "b1"), b"1")


async def replace_store(server: NatsServer, copy: Path | None = None) -> None:
    """Start the server again with a copy of its store, or with an empty one."""
    await server.kill()
    await asyncio.to_thread(shutil.rmtree, server.folder / "jetstream")
    if copy is not None:
        await asyncio.to_thread(shutil.copytree, copy, server.folder / "jetstream")
    await server.start()


async def copied(server: NatsServer, to: Path) -> Path:
    """Copy the store, as a backup does."""
    await server.kill()
    await asyncio.to_thread(shutil.copytree, server.folder / "jetstream", to)
    await server.start()
    return to


@contextlib.asynccontextmanager
async def changed(reason: str) -> AsyncIterator[None]:
    """Expect that the store has changed for this reason."""
    with pytest.raises(StoreChanged, match=reason):
        async with asyncio.timeout(SOON_S):
            yield


async def test_a_restored_copy_of_the_store_ends_the_connection(nats_server: NatsServer, tmp_path: Path) -> None:
    async with broker.connect(nats_server.url) as bus:
        await use(bus)
    copy = await copied(nats_server, tmp_path / "copy")
    older = "it is older, and what was written after 20.* UTC is gone"
    async with changed(older), broker.connect(nats_server.url) as bus:
        await bus.publish(PROGRESS, b"2")
        await replace_store(nats_server, copy)
        await asyncio.Event().wait()


async def test_an_emptied_store_ends_the_connection(nats_server: NatsServer) -> None:
    async with changed("it was emptied$"), broker.connect(nats_server.url) as bus:
        await use(bus)
        await replace_store(nats_server)
        await asyncio.Event().wait()


async def test_another_server_at_the_address_ends_the_connection(nats_server: NatsServer, tmp_path: Path) -> None:
    other = NatsServer(tmp_path / "other", max_file_bytes=STORE_BYTES)
    async with other, broker.connect(other.url) as bus:
        await use(bus)
    async with changed("emptied, or is another one"), broker.connect(nats_server.url):
        await nats_server.kill()
        other.port = nats_server.port
        shutil.copy(nats_server.password_file, other.password_file)
        async with other:
            await asyncio.Event().wait()


async def test_a_crash_alone_is_no_other_store(nats_server: NatsServer) -> None:
    """Also if all messages are deleted, and the last second of the presence is lost."""
    async with asyncio.timeout(SOON_S), broker.connect(nats_server.url) as bus:
        await use(bus)
        await bus.purge(topics.job_progress("job-1"))
        await bus.delete(RECORD)
        await bus.delete(MODEL)
        async with bus.subscribe(topics.platform_tasks("local"), durable="bridge") as tasks:
            await (await anext(tasks)).ack()
        for _ in range(3):
            await bus.put(topics.presence("local", "b1"), b"2")
            await nats_server.kill()
            await nats_server.start()
            await use(bus)


RIGHTS = """
authorization {
  users: [
    { user: "fedkeeper", password: "admin" },
    { user: "reader", password: "secret", permissions: {
        publish: ["fl.progress.>", "$JS.API.CONSUMER.*.FEDKEEPER_PROGRESS.>",
                  "$JS.API.CONSUMER.MSG.NEXT.FEDKEEPER_PROGRESS.>"],
        subscribe: ["_INBOX_reader.>"] } },
  ]
}
"""


@pytest.fixture
async def strict_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server whose user `reader` can't ask for the state of a stream."""
    async with NatsServer(tmp_path / "strict", max_file_bytes=STORE_BYTES, settings=RIGHTS) as server:
        async with broker.connect(as_user(server, "fedkeeper:admin")) as admin:
            await use(admin)
        yield server


def as_user(server: NatsServer, credentials: str) -> str:
    return f"nats://{credentials}@127.0.0.1:{server.port}"


async def test_a_reader_without_the_right_to_ask_for_streams_notices_too(
    strict_server: NatsServer, tmp_path: Path
) -> None:
    copy = await copied(strict_server, tmp_path / "copy")
    async with (
        changed("was read up to message 2, and the last one now is 1"),
        broker.connect(as_user(strict_server, "reader:secret")) as bus,
        bus.subscribe(topics.job_progress("job-1")) as events,
    ):
        await bus.publish(PROGRESS, b"2")
        assert [await (await anext(events)).read() for _ in range(2)] == [b"1", b"2"]
        await replace_store(strict_server, copy)
        await anext(events)


async def test_who_only_writes_and_has_few_rights_goes_on_with_the_store_that_is_there(
    strict_server: NatsServer, tmp_path: Path
) -> None:
    copy = await copied(strict_server, tmp_path / "copy")
    async with asyncio.timeout(SOON_S), broker.connect(as_user(strict_server, "reader:secret")) as bus:
        assert (await bus.publish(PROGRESS, b"2")).sequence == 2
        await replace_store(strict_server, copy)
        assert (await bus.publish(PROGRESS, b"3")).sequence == 2


async def delete_stream(server: NatsServer, *names: str) -> None:
    password = server.password_file.read_text(encoding="utf-8")
    client = await nats.connect(f"nats://127.0.0.1:{server.port}", user="fedkeeper", password=password)
    for name in names:
        await client.request(f"$JS.API.STREAM.DELETE.FEDKEEPER_{name}", b"", timeout=60)
    await client.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.publish(PROGRESS, b"2"),
        lambda bus: bus.purge(topics.job_progress("job-1")),
        lambda bus: bus.put(RECORD, b"2"),
        lambda bus: bus.get(RECORD),
        lambda bus: bus.snapshot(topics.job_record(topics.ANY)),
        lambda bus: bus.publish(topics.SUBMIT, b"2"),
    ],
)
async def test_a_stream_that_was_deleted_meanwhile_is_another_store(
    nats_server: NatsServer, call: Callable[[Broker], Awaitable[object]]
) -> None:
    async with changed("its stream FEDKEEPER_[A-Z]+ is missing"), broker.connect(nats_server.url) as bus:
        await use(bus)
        await delete_stream(nats_server, "PROGRESS", "RECORDS", "SUBMIT")
        with pytest.raises(StoreChanged):
            await call(bus)
        # What else uses the connection learns of it too.
        await asyncio.Event().wait()


async def test_a_subscriber_learns_that_its_stream_was_deleted(nats_server: NatsServer) -> None:
    async with (
        changed("its stream FEDKEEPER_PROGRESS is missing"),
        broker.connect(nats_server.url) as bus,
        bus.subscribe(topics.job_progress("job-1")) as events,
    ):
        await delete_stream(nats_server, "PROGRESS")
        await anext(events)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.5)


@pytest.mark.usefixtures("short_waits")
async def test_a_server_whose_store_was_deleted_under_it_is_told_from_one_out_of_reach(
    nats_server: NatsServer,
) -> None:
    async with broker.connect(nats_server.url) as bus:
        await use(bus)
    # It opens a file again at the next message.
    await nats_server.kill()
    await nats_server.start()
    async with asyncio.timeout(SOON_S), broker.connect(nats_server.url) as bus:
        shutil.rmtree(nats_server.folder / "jetstream")
        with pytest.raises(StorageFull, match="it answers, but stores nothing; look at the broker's disk and its log"):
            await bus.publish(TASK, b"2")
        with pytest.raises(StorageFull, match="then restart it"):
            await bus.purge(topics.platform_tasks("local"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount") or "", shutil.which("umount") or ""
    subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run([umount, "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk with a file, and return it."""
    with (disk / "other").open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return disk / "other"


@pytest.mark.root
@pytest.mark.usefixtures("short_waits")
async def test_a_full_disk_is_told_from_a_server_out_of_reach_and_our_own_server_recovers(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("FULL_BYTES", 1 << 20), ("ROOM_BYTES", 16 << 20)):
        monkeypatch.setattr(disk, name, size)
    monkeypatch.setattr(nats_server_module, "DISK_CHECK_S", 0.1)
    with capture_logs() as logs:
        await lose_and_get_room(small_disk, logs)


async def lose_and_get_room(small_disk: Path, logs: Sequence[Mapping[str, Any]]) -> None:
    async with (
        asyncio.timeout(SOON_S),
        NatsServer(small_disk / "nats", max_file_bytes=STORE_BYTES) as server,
        broker.connect(server.url) as bus,
        task_group() as group,
    ):
        other = fill(small_disk)
        with pytest.raises(StorageFull, match="it answers, but stores nothing"):
            await bus.put(MODEL, bytes(3 << 20))
        other.unlink()
        # Room alone is not enough.
        with pytest.raises(StorageFull):
            await bus.put(MODEL, bytes(3 << 20))
        other, waiting = fill(small_disk), group.create_task(server.wait(), name="nats-server")
        await soon(lambda: any(entry["event"].startswith("the disk is full") for entry in logs))
        other.unlink()
        await soon(lambda: [entry["event"] for entry in logs].count("nats-server is ready") == 2)
        await bus.put(MODEL, bytes(3 << 20))
        waiting.cancel()


async def test_a_server_without_jetstream_is_named_at_once(tmp_path: Path) -> None:
    port = free_port()
    async with plain_server(tmp_path, port):
        for provision in (True, False):
            assert "this nats-server has no JetStream: start it with -js" in await refusal(port, provision=provision)


async def test_an_account_without_jetstream_is_named_at_once(tmp_path: Path) -> None:
    port = free_port()
    accounts = 'A { jetstream: enabled }, B { users: [ { user: "b", password: "b" } ] }'
    settings = f'jetstream {{ store_dir: "{tmp_path}" }}\naccounts {{ {accounts} }}'
    async with plain_server(tmp_path, port, settings):
        for provision in (True, False):
            assert "this account has no JetStream" in await refusal(port, "b:b@", provision=provision)


async def refusal(port: int, credentials: str = "", *, provision: bool = True) -> str:
    with pytest.raises(ConnectFailed) as failed:
        async with (
            asyncio.timeout(AT_ONCE_S),
            broker.connect(f"nats://{credentials}127.0.0.1:{port}", provision=provision),
        ):
            pass
    return str(failed.value)


@contextlib.asynccontextmanager
async def plain_server(folder: Path, port: int, settings: str = "") -> AsyncIterator[None]:
    """A nats-server with this configuration alone."""
    config = folder / "plain.conf"
    config.write_text(f'listen: "127.0.0.1:{port}"\n{settings}', encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(find_binary(), "-c", config, "--log", folder / "plain.log"),
        preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
    )
    try:
        async with asyncio.timeout(SOON_S):
            await listens(port)
        yield
    finally:
        process.kill()
        await process.wait()
