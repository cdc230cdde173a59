"""Takes events from one broker and has each brought to the other; acknowledged is what is there."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

import structlog

from bridges.in_flight import InFlight
from bridges.relay.side import Side
from broker.base import Delivery, Start
from broker.errors import BrokerError, CorruptPayload

log = structlog.get_logger(__name__)

Carry = Callable[[Delivery, bytes], Awaitable[None]]
"""Brings an event and its payload across; returns when it is there."""

AGAIN_S: Final = 10.0
"""When an event is tried again that the other broker has no room for, or that we may not publish there."""

REMEMBERED: Final = 4096
"""An acknowledgement may get lost with the link; what was brought across lately is known all the same."""


class Forwarder:
    """Everything that goes in one direction; events of one topic stay in order.

    Args:
        source: where events come from.
        target: where they go.
        group: where the work is done.
        heartbeat_s: how often the source is told that events are still on their way.
    """

    def __init__(self, source: Side, target: Side, group: asyncio.TaskGroup, heartbeat_s: float) -> None:
        self._source = source
        self._target = target
        self._group = group
        self._in_flight = InFlight(heartbeat_s)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._across: OrderedDict[str, None] = OrderedDict()

    async def beat(self) -> None:
        """Tell the source for ever what is on its way, so that nothing comes again meanwhile."""
        await self._in_flight.heartbeat()

    async def follow(
        self, topic_filter: str, durable: str, carry: Carry, *, start: Start = "first", at_once: int
    ) -> None:
        """Bring across what is and what will be published under a filter, until cancelled.

        Args:
            topic_filter: of topics that are kept as events.
            durable: the source remembers under this name what is done.
            carry: see there.
            start: where to begin when that name is new.
            at_once: events on their way at the most.
        """
        subscribed = self._source.broker.subscribe(topic_filter, durable=durable, start=start, prefetch=at_once)
        async with subscribed as deliveries:
            async for delivery in deliveries:
                self._group.create_task(self._bring(delivery, carry), name=f"{durable}.{delivery.sequence}")

    async def as_it_is(self, delivery: Delivery, payload: bytes) -> None:
        """A `Carry`: publish it as it came."""
        await self._target.publish(delivery.topic, payload, dedupe=fingerprint(delivery.topic, payload))

    async def _bring(self, delivery: Delivery, carry: Carry) -> None:
        name = f"{delivery.topic}#{delivery.sequence}"
        if await self._in_flight.adopt_or_ack_duplicate(name, delivery):
            return
        with self._in_flight.working(name, delivery):
            async with self._turns.setdefault(delivery.topic, asyncio.Lock()):
                try:
                    await self._bring_once(name, delivery, carry)
                except BrokerError as exc:
                    log.warning("an event can't be brought across now", topic=delivery.topic, error=str(exc))
                    await self._in_flight[name].nak(AGAIN_S)
                else:
                    await self._in_flight[name].ack()

    async def _bring_once(self, name: str, delivery: Delivery, carry: Carry) -> None:
        if name in self._across:
            return
        try:
            payload = await self._source.read(delivery)
        except CorruptPayload as exc:
            log.warning("an event that can't be read is left out", topic=delivery.topic, error=str(exc))
            return
        await carry(delivery, payload)
        self._target.reached_by(delivery)
        self._across[name] = None
        if len(self._across) > REMEMBERED:
            self._across.popitem(last=False)


def fingerprint(topic: str, payload: bytes) -> str:
    """An id by which a broker knows an event again: every copy of one has the same bytes."""
    return hashlib.sha256(topic.encode() + b"\0" + payload).hexdigest()[:32]
