"""An instance's connection to a real broker: opened once, kept, replaced."""

import asyncio
import contextlib
from pathlib import Path

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.errors import ConnectFailed, NoSystem
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from client_fn.runtime.connection import LazyConnection

NOTHING = topics.job_record("job")


@pytest.fixture(autouse=True)
async def _system(nats_server: NatsServer) -> None:
    """A system has used the broker: functions make nothing ready."""
    async with broker.connect(nats_server.url):
        pass


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of those that connect."""
    names: list[str] = []
    connect = broker.connect

    def counted(url: str, *, name: str, provision: bool) -> contextlib.AbstractAsyncContextManager[Broker]:
        names.append(name)
        return connect(url, name=name, provision=provision)

    monkeypatch.setattr(broker, "connect", counted)
    return names


async def use(connection: LazyConnection) -> Broker:
    async with connection.acquire() as bus:
        assert await bus.get(NOTHING) is None
    return bus


@pytest.mark.parametrize(("idle_s", "opened"), [(60.0, 1), (-1.0, 2)])
async def test_a_connection_that_nobody_used_for_long_is_replaced(
    nats_server: NatsServer, connections: list[str], idle_s: float, opened: int
) -> None:
    async with task_group() as group:
        connection = LazyConnection(nats_server.url, "instance", group, idle_s=idle_s)
        first, second = await use(connection), await use(connection)
        connection.close()
    assert (first is second) == (opened == 1)
    assert connections == ["instance"] * opened


async def test_a_connection_in_use_is_not_replaced(nats_server: NatsServer, connections: list[str]) -> None:
    async with task_group() as group:
        connection = LazyConnection(nats_server.url, "instance", group, idle_s=-1.0)
        async with connection.acquire() as bus:
            assert await use(connection) is bus
            assert await bus.get(NOTHING) is None
        connection.close()
    assert connections == ["instance"]


async def test_a_cancelled_caller_does_not_close_the_connection_of_others(
    nats_server: NatsServer, connections: list[str]
) -> None:
    async with task_group() as group:
        connection = LazyConnection(nats_server.url, "instance", group)
        first, second = (group.create_task(use(connection), name=f"user {i}") for i in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        connection.close()
    assert first.cancelled()
    assert connections == ["instance"]


async def test_a_function_makes_no_broker_ready(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "unused", max_file_bytes=2 << 30) as unused, task_group() as group:
        for _ in range(2):
            with pytest.raises(NoSystem):
                await use(LazyConnection(unused.url, "instance", group))


async def test_a_connection_that_could_not_be_opened_is_tried_again(nats_server: NatsServer) -> None:
    await nats_server.kill()
    async with task_group() as group:
        connection = LazyConnection(nats_server.url, "instance", group)
        with pytest.raises(ConnectFailed):
            await use(connection)
        await nats_server.start()
        await use(connection)
        connection.close()
