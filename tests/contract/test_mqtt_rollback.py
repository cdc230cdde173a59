"""After a reconnection, every part finds out whether the MQTT broker still has the store that it knew."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import broker
from broker import Broker, BrokerUrl, topics
from broker.errors import StoreChanged
from broker.mqtt import link as mqtt_link
from broker.mqtt import store_check
from tests.support.brokers import Mosquitto

SOON_S = 60.0
PROGRESS = topics.progress("job-1", "round", "completed")
TASK = topics.task("openfaas", "client-1")
RECORD = topics.job_record("job-1")
MARK = "fk/store"
COUNTERS = "fk/marks/+"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    server = Mosquitto(tmp_path / "server")
    await server.start()
    yield server
    await server.kill()


async def replace_store(server: Mosquitto, store: Path | None) -> None:
    """Kill the broker, and start it with this store, or with none."""
    await server.kill()
    file = server.folder / "mosquitto.db"
    file.unlink(missing_ok=True)
    if store is not None:
        shutil.copy(store, file)
    await server.start()


async def saved_store(server: Mosquitto, path: Path) -> Path:
    await server.save()
    shutil.copy(server.folder / "mosquitto.db", path)
    return path


async def retained(server: Mosquitto, *filters: str) -> dict[str, bytes]:
    async with mqtt_link.open_link(BrokerUrl.parse(server.url), "plain") as link:
        return await link.fetch(*filters)


@pytest.fixture
def counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each part count its first write only: between `save` and `kill`, nothing but the test writes."""
    monkeypatch.setattr(store_check, "FIRST_PAUSE_S", SOON_S)
    monkeypatch.setattr(store_check, "LONGEST_PAUSE_S", SOON_S)


async def counter(server: Mosquitto) -> dict[str, bytes]:
    """Wait for the counter of the only part that writes, and return it."""
    async with asyncio.timeout(SOON_S):
        while len(counters := await retained(server, COUNTERS)) != 1:
            pass
    return counters


async def counted(server: Mosquitto, before: dict[str, bytes], bus: Broker) -> None:
    """Wait until this counter has moved on, and until its connection knows that."""
    async with asyncio.timeout(SOON_S):
        while before.items() <= (await retained(server, COUNTERS)).items():
            pass
        await bus.publish(topics.progress("job-2", "round", "completed"), b"acknowledged after the counter")


async def change_of(server: Mosquitto, act: Callable[[Broker], Awaitable[Path | None]]) -> str:
    """Connect, act, replace the store by the one that `act` returns, and return what ended the connection."""
    try:
        async with asyncio.timeout(SOON_S), broker.connect(server.url) as bus:
            await replace_store(server, await act(bus))
            await asyncio.Event().wait()
    except StoreChanged as exc:
        return str(exc)
    raise AssertionError


async def test_a_store_that_lacks_what_we_wrote_is_older(server: Mosquitto, tmp_path: Path) -> None:
    async def act(bus: Broker) -> Path:
        await bus.publish(PROGRESS, b"1")
        store, before = await saved_store(server, tmp_path / "db"), await counter(server)
        await bus.publish(PROGRESS, b"2")
        await counted(server, before, bus)
        return store

    assert re.search(r"it is older: the last [0-9.]+ s .*autosave", await change_of(server, act))


@pytest.mark.parametrize("what", ["an event", "a record"])
@pytest.mark.usefixtures("counts_once")
async def test_what_was_written_after_the_last_count_is_looked_for(
    server: Mosquitto, tmp_path: Path, what: str
) -> None:
    async def act(bus: Broker) -> Path:
        revision = await bus.put(RECORD, b"1", revision=0)
        await counter(server)
        store = await saved_store(server, tmp_path / "db")
        if what == "an event":
            await bus.publish(PROGRESS, b"2")
        else:
            await bus.put(RECORD, b"2", revision=revision)
        return store

    assert "it is older: what we wrote last is gone" in await change_of(server, act)


async def test_a_store_from_before_our_first_write_is_older(server: Mosquitto, tmp_path: Path) -> None:
    async def act(bus: Broker) -> Path:
        await server.save()
        shutil.copy(server.folder / "mosquitto.db", tmp_path / "db")
        await bus.put(RECORD, b"1", revision=0)
        before = await counter(server)
        await bus.put(RECORD, b"2")
        await counted(server, before, bus)
        return tmp_path / "db"

    assert "it is older" in await change_of(server, act)


async def test_a_store_that_lacks_a_task_that_we_have_seen_is_older(server: Mosquitto, tmp_path: Path) -> None:
    async def act(bus: Broker) -> Path:
        async with bus.subscribe(topics.platform_tasks("openfaas"), durable="bridge", prefetch=1) as events:
            async with broker.connect(server.url) as other:
                await other.publish(TASK, b"1")
                await anext(events)
            store, before = await saved_store(server, tmp_path / "db"), await counter(server)
            async with broker.connect(server.url) as other:
                await other.publish(TASK, b"2")
            await counted(server, before, bus)
        return store

    assert "it is older" in await change_of(server, act)


@pytest.mark.usefixtures("counts_once")
async def test_a_crash_that_lost_nothing_is_no_change(server: Mosquitto) -> None:
    async with broker.connect(server.url) as bus, broker.connect(server.url) as silent:
        for number in range(3):
            revision = await bus.put(RECORD, b"%d" % number)
            await bus.publish(PROGRESS, b"%d" % number)
            await counter(server)
            await server.save()
            await server.kill()
            await server.start()
            async with asyncio.timeout(SOON_S):
                for part in (bus, silent):
                    assert await part.get(RECORD) == broker.Value(RECORD, b"%d" % number, revision)


async def test_parts_that_wrote_nothing_go_on_with_an_older_store(server: Mosquitto, tmp_path: Path) -> None:
    async with broker.connect(server.url) as bus:
        store = await saved_store(server, tmp_path / "db")
        async with broker.connect(server.url) as other:
            await other.put(RECORD, b"1")
            await bus.get(RECORD)
        await replace_store(server, store)
        async with asyncio.timeout(SOON_S):
            assert await bus.get(RECORD) is None


@pytest.mark.parametrize("writes", [True, False])
async def test_a_broker_without_persistence_was_emptied(server: Mosquitto, *, writes: bool) -> None:
    async def act(bus: Broker) -> None:
        if writes:
            await bus.put(RECORD, b"1")

    assert re.search("it was emptied.*persistence true", await change_of(server, act))
    async with broker.connect(server.url) as bus:
        assert await bus.get(RECORD) is None


@pytest.mark.parametrize("writes", [True, False])
async def test_another_broker_behind_the_address_is_another_store(
    server: Mosquitto, tmp_path: Path, *, writes: bool
) -> None:
    another = Mosquitto(tmp_path / "another")
    await another.start()
    async with broker.connect(another.url) as bus:
        await bus.put(RECORD, b"theirs")
    store = await saved_store(another, tmp_path / "db")
    await another.kill()

    async def act(bus: Broker) -> Path:
        if writes:
            await bus.put(RECORD, b"ours")
        return store

    assert "another store" in await change_of(server, act)


@pytest.mark.usefixtures("counts_once")
async def test_a_mark_without_an_id_is_accepted(server: Mosquitto) -> None:
    async with mqtt_link.open_link(BrokerUrl.parse(server.url), "plain") as link:
        await link.publish(MARK, b'{"schema":1}')
        async with broker.connect(server.url) as bus:
            await bus.put(RECORD, b"1")
            await counter(server)
            await server.save()
            await server.kill()
            await server.start()
            async with asyncio.timeout(SOON_S):
                assert await bus.get(RECORD) is not None
        assert await link.fetch(MARK) == {MARK: b'{"schema":1}'}


async def test_parts_that_start_at_once_agree_on_the_store_s_id(server: Mosquitto) -> None:
    async def part() -> None:
        async with broker.connect(server.url) as bus:
            await started.wait()
            await bus.get(RECORD)

    started = asyncio.Event()
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(part())
        while MARK not in (payloads := await retained(server, MARK)):
            pass
        mark = json.loads(payloads[MARK])
        assert mark["schema"] == 1
        assert len(mark["id"]) == 16
        await asyncio.sleep(0.2)
        await server.save()
        await server.kill()
        await server.start()
        started.set()


async def test_a_part_that_ends_leaves_no_counter(server: Mosquitto) -> None:
    async with broker.connect(server.url) as bus:
        for number in range(100):
            await bus.publish(PROGRESS, b"%d" % number)
        async with asyncio.timeout(SOON_S):
            while len(await retained(server, COUNTERS)) != 1:
                pass
    assert await retained(server, COUNTERS) == {}


async def test_a_user_who_may_not_write_counters_can_work(tmp_path: Path) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic read fk/#\ntopic readwrite fl/progress/#\n", encoding="utf-8")
    server = Mosquitto(tmp_path / "data", f"acl_file {rights}")
    await server.start()
    try:
        async with broker.connect(server.url) as bus, asyncio.timeout(SOON_S):
            for number in range(2):
                assert (await bus.publish(PROGRESS, b"%d" % number)).stored
                await server.save()
                await server.kill()
                await server.start()
    finally:
        await server.kill()
