"""Deliveries in progress: copies of a message, a second delivery of it, and the heartbeat."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from bridges.in_flight import InFlight
from broker.deliveries import Delivery
from broker.errors import Disconnected

Call = Literal["ack", "nak", "working"]


class Recorded(Delivery):
    """A delivery that records its calls.

    Attributes:
        calls: the calls, in order.
        fails: whether the broker is out of reach.
        extended: set by a heartbeat.
        on_nak: awaited before `nak` returns.
    """

    def __init__(self, sequence: int, *, fails: bool = False) -> None:
        self.calls: list[Call] = []
        self.fails = fails
        self.extended = asyncio.Event()
        self.on_nak: Callable[[float], Awaitable[None]] = _do_nothing
        super().__init__("fl.tasks.fake.c-1", b"", _unread, sequence=sequence, attempt=1, time_s=0.0)

    async def ack(self) -> None:
        self.calls.append("ack")

    async def nak(self, delay_s: float = 0.0) -> None:
        self.calls.append("nak")
        await self.on_nak(delay_s)

    async def working(self) -> None:
        self.calls.append("working")
        self.extended.set()
        if self.fails:
            raise Disconnected("gone")


async def _do_nothing(_: float) -> None:
    pass


async def _unread(*_: object) -> bytes:
    raise AssertionError("not read")


async def test_new_work_is_not_in_progress() -> None:
    assert not await InFlight().adopt_or_ack_duplicate("task", Recorded(1))


async def test_a_second_copy_of_a_message_is_acknowledged() -> None:
    in_flight, first, copy = InFlight(), Recorded(1), Recorded(2)
    async with in_flight.track("task", first):
        assert await in_flight.adopt_or_ack_duplicate("task", copy)
        assert in_flight["task"] is first
    assert (first.calls, copy.calls) == ([], ["ack"])
    assert not await in_flight.adopt_or_ack_duplicate("task", copy)


async def test_the_same_message_delivered_again_is_the_one_to_acknowledge() -> None:
    in_flight, first, again = InFlight(), Recorded(1), Recorded(1)
    async with in_flight.track("task", first):
        assert await in_flight.adopt_or_ack_duplicate("task", again)
        assert in_flight["task"] is again
    assert again.calls == []


async def test_work_that_failed_is_not_in_progress() -> None:
    in_flight = InFlight()
    with pytest.raises(ValueError, match="ours"):
        async with in_flight.track("task", Recorded(1)):
            raise ValueError("ours")
    assert not await in_flight.adopt_or_ack_duplicate("task", Recorded(1))


async def test_the_heartbeat_reaches_other_deliveries_when_one_fails() -> None:
    in_flight, lost, other = InFlight(heartbeat_s=0.0), Recorded(1, fails=True), Recorded(2)
    async with in_flight.track("lost", lost), in_flight.track("other", other):
        heartbeat = asyncio.ensure_future(in_flight.heartbeat())
        async with asyncio.timeout(60):
            await other.extended.wait()
            lost.extended.clear()
            await lost.extended.wait()
        heartbeat.cancel()
        await asyncio.wait([heartbeat])
    assert heartbeat.cancelled()


async def test_a_message_that_comes_again_before_its_nak_returns_is_new_work() -> None:
    in_flight, first, again = InFlight(), Recorded(1), Recorded(1)
    ended = asyncio.Event()

    async def work_on(delivery: Recorded) -> None:
        assert not await in_flight.adopt_or_ack_duplicate("task", delivery)
        async with in_flight.track("task", delivery):
            await ended.wait()

    async def deliver_again(_: float) -> None:
        second.append(asyncio.create_task(work_on(again), name="second attempt"))
        await asyncio.sleep(0)

    second: list[asyncio.Task[None]] = []
    first.on_nak = deliver_again
    async with in_flight.track("task", first):
        await in_flight.nak("task", 0.1)
    assert in_flight["task"] is again, "its work is in progress after that of the first delivery has ended"
    ended.set()
    await second[0]
    assert (first.calls, again.calls) == (["nak"], [])


async def cancelled_work(in_flight: InFlight, delivery: Recorded) -> None:
    """Cancel the work on a delivery, as a process does that gets SIGTERM."""

    async def work() -> None:
        async with in_flight.track("task", delivery):
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    working = asyncio.create_task(work(), name="work")
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_work_that_is_cancelled_is_given_back() -> None:
    in_flight, delivery = InFlight(), Recorded(1)
    await cancelled_work(in_flight, delivery)
    assert delivery.calls == ["nak"]
    assert not await in_flight.adopt_or_ack_duplicate("task", Recorded(1))


async def test_a_broker_that_is_away_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: float) -> None:
        await asyncio.Event().wait()

    async def fail(_: float) -> None:
        raise Disconnected("gone")

    monkeypatch.setattr("bridges.in_flight.GIVE_BACK_S", 0.0)
    for behave in (hang, fail):
        delivery = Recorded(1)
        delivery.on_nak = behave
        await cancelled_work(InFlight(), delivery)
        assert delivery.calls == ["nak"]
