"""A claim lock against a broker that the test plays: who gets the lock, and what is left on the broker."""

import asyncio
from typing import Any

import pytest

from broker.errors import Disconnected
from broker.mqtt.claims import TRANSITIONS, ClaimLock, Event, Lease, Status, write_once_lease
from broker.mqtt.client import Message

LEASE = Lease(lasts_s=60.0, own_s=0.05)
TOPIC = "fk/claims/a"


class Broker:
    """Retains messages, and shows the lock every message on its topic: first those of other writers."""

    def __init__(self, *others: bytes, retained: bytes = b"") -> None:
        self.retained = {TOPIC: retained} if retained else {}
        self.published: list[bytes] = []
        self._others = list(others)
        self.lock: ClaimLock | None = None

    async def fetch(self, *_filters: str) -> dict[str, bytes]:
        return self.retained

    async def publish(self, topic: str, payload: bytes, **_options: Any) -> None:
        assert topic == TOPIC
        self.published.append(payload)
        assert self.lock is not None
        while self._others:
            self.lock.messages.put_nowait(Message(TOPIC, self._others.pop(0)))
        self.lock.messages.put_nowait(Message(TOPIC, payload))


def lock_on(bus: Broker, lease: Lease = LEASE) -> ClaimLock:
    bus.lock = ClaimLock(bus, "a", "fl/a", "me", lease)  # type: ignore[arg-type]
    return bus.lock


def test_every_event_is_in_the_table_until_a_final_status() -> None:
    assert {status for status, row in TRANSITIONS.items() if not row} == {Status.CLAIMED, Status.LOST}
    assert all(set(row) in (set(), set(Event)) for row in TRANSITIONS.values())


async def test_the_only_claim_gets_the_lock() -> None:
    bus = Broker()
    lock = lock_on(bus)
    assert await lock.read() == b""
    assert await lock.acquire()
    await lock.release()
    assert bus.published == [b"me", b""]


async def test_a_second_claim_waits_until_the_first_is_cleared_and_is_cleared_itself() -> None:
    bus = Broker(b"other")
    lock = lock_on(bus)
    await lock.read()
    acquiring = asyncio.create_task(lock.acquire())
    await asyncio.sleep(0)
    assert not acquiring.done()
    lock.messages.put_nowait(Message(TOPIC, b""))
    assert not await acquiring
    assert bus.published == [b"me", b""]


async def test_a_retained_claim_of_another_writer_is_respected() -> None:
    bus = Broker(retained=b"other")
    lock = lock_on(bus)
    await lock.read()
    lock.messages.put_nowait(Message(TOPIC, b""))
    assert not await lock.acquire()
    assert bus.published == []


async def test_a_claim_of_ours_on_a_lost_connection_is_cleared_after_a_while() -> None:
    bus = Broker(retained=b"me")
    lock = lock_on(bus)
    await lock.read()
    with pytest.raises(Disconnected, match="not used"):
        await lock.acquire()
    assert bus.published == [b""]


async def test_a_claim_of_our_own_lost_connection_is_removed_at_once_if_the_lease_allows_it() -> None:
    bus = Broker(retained=b"me")
    lock = lock_on(bus, Lease(lasts_s=60.0, own_s=0.0))
    await lock.read()
    assert await lock.acquire()
    assert bus.published == [b"", b"me"]


async def test_an_unused_claim_is_cleared() -> None:
    bus = Broker(retained=b"other")
    lock = lock_on(bus, Lease(lasts_s=0.01, own_s=0.0))
    await lock.read()
    with pytest.raises(Disconnected, match="not used"):
        await lock.acquire()
    assert bus.published == [b""]


async def test_writing_after_half_of_the_lease_or_without_the_lock_fails() -> None:
    lock = lock_on(Broker(), Lease(lasts_s=0.0, own_s=0.0))
    with pytest.raises(Disconnected, match="too long"):
        await lock.write("fl/a", b"1")


@pytest.mark.parametrize(("size", "lasts_s"), [(0, 8.0), (400_000, 18.0), (4 << 20, 60.0)])
def test_a_small_payload_is_not_blocked_for_long_by_a_claim_that_a_crash_left(size: int, lasts_s: float) -> None:
    assert write_once_lease(size).lasts_s == lasts_s
