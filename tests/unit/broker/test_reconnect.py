"""A link to a broker whose store has changed ends, and everything that uses it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from broker import BrokerUrl
from broker.errors import Disconnected, StoreChanged
from broker.reconnect import Link

ADDRESS = BrokerUrl.parse("memory://test")


class FakeConnection:
    """A connection that a test ends by setting `lost`."""

    address = ADDRESS
    max_message_bytes = 1 << 20

    def __init__(self, store: str) -> None:
        self.lost = asyncio.Event()
        self.store = store
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False


class FakeLink(Link[FakeConnection]):
    """A link to brokers with these stores, one after the other; an empty one can't be checked."""

    def __init__(self, *stores: str) -> None:
        self.opened: list[FakeConnection] = []
        self._stores = iter(stores)
        super().__init__(self._make)

    def _make(self) -> FakeConnection:
        self.opened.append(FakeConnection(next(self._stores)))
        return self.opened[-1]

    async def check_store(self, connection: FakeConnection) -> None:
        if not connection.store:
            raise Disconnected("no answer")
        if connection.store != self.opened[0].store:
            raise StoreChanged("memory://test", "it is another one")


@contextlib.asynccontextmanager
async def reconnected(link: FakeLink) -> AsyncIterator[None]:
    """Run a link, and end its first connection."""
    async with asyncio.timeout(60), link.running():
        (await link.connection()).lost.set()
        yield


async def test_another_store_ends_what_uses_the_link() -> None:
    link = FakeLink("a", "b")
    with pytest.raises(StoreChanged, match="it is another one"):
        async with reconnected(link):
            await asyncio.Event().wait()
    assert not any(connection.is_open for connection in link.opened)


async def test_a_store_that_could_not_be_checked_is_checked_again() -> None:
    link = FakeLink("a", "", "a")

    async def store_of(connection: FakeConnection) -> str:
        if connection is link.opened[0]:
            raise Disconnected("its loss has not been noticed yet")
        return connection.store

    async with reconnected(link):
        assert await link.retry(store_of) == "a"
    assert not any(connection.is_open for connection in link.opened)


async def test_a_call_that_finds_another_store_ends_all_that_uses_the_link() -> None:
    link = FakeLink("a")

    async def stream_of(_: FakeConnection) -> str:
        raise StoreChanged("memory://test", "its stream is missing")

    async def call_and_wait() -> None:
        async with link.running():
            with contextlib.suppress(StoreChanged):
                await link.retry(stream_of)
            await asyncio.Event().wait()

    with pytest.raises(StoreChanged, match="its stream is missing"):
        await asyncio.wait_for(call_and_wait(), 60)
    # Somebody who still has the link does not wait for a connection that will never come.
    with pytest.raises(StoreChanged):
        await asyncio.wait_for(link.connection(), 60)
