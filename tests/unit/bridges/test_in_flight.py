"""Deliveries in work: copies of a message, a newer delivery of it, and the heartbeat."""

import asyncio
from typing import Literal

import pytest

from bridges.in_flight import InFlight
from broker.base import Delivery
from broker.errors import Disconnected

Call = Literal["ack", "working"]


class Recorded(Delivery):
    """A delivery that keeps what is asked of it.

    Attributes:
        calls: what was asked, in order.
        fails: the broker is away.
        told: set once it was said that work goes on.
    """

    def __init__(self, sequence: int, *, fails: bool = False) -> None:
        self.calls: list[Call] = []
        self.fails = fails
        self.told = asyncio.Event()
        super().__init__("fl.tasks.fake.c-1", b"", _unread, sequence=sequence, attempt=1, time_s=0.0)

    async def ack(self) -> None:
        self.calls.append("ack")

    async def working(self) -> None:
        self.calls.append("working")
        self.told.set()
        if self.fails:
            raise Disconnected("gone")


async def _unread(*_: object) -> bytes:
    raise AssertionError("nobody reads it")


async def test_work_that_nobody_does_is_not_known() -> None:
    assert not await InFlight().adopt_or_ack_duplicate("task", Recorded(1))


async def test_a_second_copy_of_a_message_is_acknowledged() -> None:
    held, first, copy = InFlight(), Recorded(1), Recorded(2)
    with held.track("task", first):
        assert await held.adopt_or_ack_duplicate("task", copy)
        assert held["task"] is first
    assert (first.calls, copy.calls) == ([], ["ack"])
    assert not await held.adopt_or_ack_duplicate("task", copy)


async def test_the_same_message_delivered_again_is_the_one_to_acknowledge() -> None:
    held, first, again = InFlight(), Recorded(1), Recorded(1)
    with held.track("task", first):
        assert await held.adopt_or_ack_duplicate("task", again)
        assert held["task"] is again
    assert again.calls == []


async def test_work_that_fails_is_held_no_more() -> None:
    held = InFlight()
    with pytest.raises(ValueError, match="ours"), held.track("task", Recorded(1)):
        raise ValueError("ours")
    assert not await held.adopt_or_ack_duplicate("task", Recorded(1))


async def test_the_broker_is_told_of_all_work_even_when_it_hears_of_one_no_more() -> None:
    held, lost, other = InFlight(heartbeat_s=0.0), Recorded(1, fails=True), Recorded(2)
    with held.track("lost", lost), held.track("other", other):
        beating = asyncio.ensure_future(held.heartbeat())
        async with asyncio.timeout(60):
            await other.told.wait()
            lost.told.clear()
            await lost.told.wait()
        beating.cancel()
        await asyncio.wait([beating])
    assert beating.cancelled()
