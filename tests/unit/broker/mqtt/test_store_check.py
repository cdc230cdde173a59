"""What a new connection finds in the store, compared with what we knew."""

import asyncio

import msgspec
import pytest

from broker.errors import StoreChanged
from broker.mqtt.storage import STORE, Mark
from broker.mqtt.store_check import Count, Known, StoreCheck, change

OURS, THEIRS, OLD = Mark(1, "aa"), Mark(1, "bb"), Mark(1)


@pytest.mark.parametrize(
    ("knew", "found", "expected"),
    [
        (Known(OURS), Known(OURS), ""),
        (Known(OLD), Known(OLD), ""),
        (Known(OURS), Known(), "emptied"),
        (Known(OURS), Known(THEIRS), "another store"),
        (Known(), Known(), ""),
        (Known(), Known(OURS), ""),
        (Known(OURS, Count(5, 50.0)), Known(OURS, Count(5, 50.0)), ""),
        (Known(OURS, Count(5, 50.0)), Known(OURS, Count(6, 51.0)), ""),  # the acknowledgement was lost
        (Known(OURS, Count(5, 50.0)), Known(OURS, Count(4, 49.2)), "older: the last 0.8 s"),
        (Known(OURS, Count(5, 50.0)), Known(OURS), "older: what we wrote is gone"),
        (Known(OURS, Count(5, 50.0)), Known(THEIRS), "another store"),
        (Known(OURS, Count(5, 50.0)), Known(THEIRS, Count(5, 50.0)), ""),  # two programs set the mark at once
        (Known(None, Count(5, 50.0)), Known(), "older"),
        (Known(OURS, Count(5, 50.0)), Known(OURS, Count(5, 50.0), has_last=False), "older: what we wrote last"),
        (Known(OURS), Known(OURS, has_last=False), "older: what we wrote last"),
        (Known(OURS), Known(THEIRS, has_last=False), "another store"),
        (Known(OURS, Count(5, 50.0)), Known(), "emptied"),
    ],
)
def test_what_has_changed(knew: Known, found: Known, expected: str) -> None:
    reason = change(knew, found)
    assert (expected in reason) if expected else reason == ""


class Store:
    """A connection to a store of retained messages."""

    def __init__(self, retained: dict[str, bytes], counter_topic: str = "fk/marks/a") -> None:
        self.counter_topic = counter_topic
        self.retained = retained
        self.published = asyncio.Event()

    async def fetch(self, *filters: str) -> dict[str, bytes]:
        return {topic: payload for topic, payload in self.retained.items() if topic in filters}

    async def publish(self, topic: str, payload: bytes, *, expires_s: float = 0.0) -> None:
        assert expires_s or not payload
        self.retained[topic] = payload
        if not payload:
            del self.retained[topic]
        self.published.set()


async def test_each_connection_has_a_counter_and_the_last_one_stays() -> None:
    check, retained = StoreCheck("mqtt://here"), {STORE: msgspec.json.encode(OURS)}
    check.mark = OURS
    for connection in (Store(retained, "fk/marks/a"), Store(retained, "fk/marks/b")):
        await check.check(connection, is_late=False)

        async def connect(connection: Store = connection) -> Store:
            return connection

        counting = asyncio.create_task(check.run(connect))
        check.note()
        async with asyncio.timeout(60):
            while set(retained) != {STORE, connection.counter_topic}:
                await connection.published.wait()
                connection.published.clear()
                await asyncio.sleep(0)
        counting.cancel()
    del retained["fk/marks/b"]
    with pytest.raises(StoreChanged, match="older"):
        await check.check(Store(retained, "fk/marks/c"), is_late=False)
