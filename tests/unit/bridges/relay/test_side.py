"""The log messages about a link that is cut or slow."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery, Receipt
from broker.errors import Disconnected
from tests.support.fakes import soon
from tests.support.relay_side import side

UPDATE = topics.update("job", 1, "client-00", 1)


class Away:
    """Makes the first publish calls of a broker fail."""

    def __init__(self, bus: Broker, failures: int) -> None:
        self._left = failures
        self._publish = bus.publish
        bus.publish = self.publish  # type: ignore[method-assign]

    async def publish(self, topic: str, payload: bytes, *, dedupe: str | None = None) -> Receipt:
        self._left -= 1
        if self._left >= 0:
            raise Disconnected("no route")
        return await self._publish(topic, payload, dedupe=dedupe)


def delivery_of(time_s: float, topic: str = UPDATE) -> Delivery:
    async def load(_: str, message: bytes, __: int | None) -> bytes:
        return message

    return Delivery(topic, b"x", load, sequence=1, attempt=1, time_s=time_s)


async def test_a_cut_link_is_logged_once_and_so_are_the_events_that_came_late(
    backbone: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.relay.side.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("bridges.relay.side.QUIET_S", 0.0)
    Away(backbone, 3)
    remote = side(backbone)
    with capture_logs() as logs:
        await remote.publish(UPDATE, b"x")
        for time_s in (99.0, 100.0, 101.0):
            remote.count_late(delivery_of(time_s))
        remote.count_late(delivery_of(99.0, topics.invocation("edge-a", "client-00")))
        await soon(lambda: any("late" in line for line in logs))
    assert [line["event"] for line in logs] == [
        "site is cut off",
        "site is back",
        "the events that waited are delivered",
    ]
    assert logs[-1]["late"] == {"updates": 2, "invocations": 1}
    assert remote.sent == 1


async def test_a_small_call_that_takes_long_is_logged_before_it_ends(
    backbone: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.relay.side.PATIENCE_S", 0.0)
    remote, release = side(backbone), asyncio.Event()

    async def slow(*_: Any, **__: Any) -> Receipt:
        await release.wait()
        return Receipt(1)

    backbone.publish = slow  # type: ignore[method-assign]
    call = asyncio.ensure_future(remote.publish(UPDATE, b"x"))
    await soon(lambda: remote.is_away)
    release.set()
    await call
    assert not remote.is_away
