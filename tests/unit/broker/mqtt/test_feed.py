"""A feed's listener has received everything only after it has received the snapshot of the current connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.errors import Disconnected
from broker.mqtt.client import Message
from broker.mqtt.feed import follow


class FakeConnection:
    """A connection whose snapshot comes when a test allows it."""

    def __init__(self, *, has_snapshot: bool = True) -> None:
        self.lost = asyncio.Event()
        self.snapshot = asyncio.Event()
        self.asked = 0
        if has_snapshot:
            self.snapshot.set()

    @contextlib.asynccontextmanager
    async def listen(self, _filters: Any, _receive: Any) -> AsyncIterator[None]:
        yield

    async def fetch(self, *_filters: str) -> dict[str, bytes]:
        await self.snapshot.wait()
        return {}

    async def receive_all(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.lost.is_set():
            raise Disconnected("gone")


class FakeLink:
    def __init__(self, connection: FakeConnection) -> None:
        self.current = connection

    async def connection(self) -> FakeConnection:
        return self.current


class Listener:
    def __init__(self) -> None:
        self.snapshots = 0

    def on_snapshot(self, _payloads: dict[str, bytes]) -> None:
        self.snapshots += 1

    def on_message(self, _message: Message) -> None: ...


async def turns() -> None:
    """Let every other task run until it waits for something."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def listener() -> Listener:
    return Listener()


async def test_everything_is_received_once_our_message_has_come_back(listener: Listener) -> None:
    connection = FakeConnection()
    async with asyncio.timeout(60), follow(FakeLink(connection), ("fl/#",), listener) as feed:  # type: ignore[arg-type]
        await feed.receive_all()
    assert (connection.asked, listener.snapshots) == (1, 1)


async def test_after_a_reconnection_only_a_message_that_follows_the_snapshot_counts(listener: Listener) -> None:
    first, second = FakeConnection(), FakeConnection(has_snapshot=False)
    link = FakeLink(first)
    async with asyncio.timeout(60), follow(link, ("fl/#",), listener) as feed:  # type: ignore[arg-type]
        link.current = second
        first.lost.set()
        receiving = asyncio.create_task(feed.receive_all())
        await turns()
        assert not receiving.done()
        assert second.asked == 0
        second.snapshot.set()
        await receiving
    assert (second.asked, listener.snapshots) == (1, 2)
