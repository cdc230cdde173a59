"""Forwards events from one broker to the other. An event is acknowledged only after the other broker has it."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from bridges.in_flight import InFlight
from bridges.relay.side import Side
from broker.base import Start
from broker.deliveries import Delivery
from broker.errors import BrokerError, CorruptPayload
from broker.support import loggers

log = loggers.get_logger(__name__)

ForwardEvent = Callable[[Delivery, bytes], Awaitable[None]]
"""Forwards an event and its payload; returns when the target has what it needs of them."""

AGAIN_S: Final = 10.0
"""Delay before an event is tried again that the target has no room for, or does not let us publish. Seconds."""

REMEMBERED: Final = 4096
"""How many forwarded events are remembered: an acknowledgement may get lost, and its event then comes again."""


class Forwarder:
    """Forwards all events of one direction. Events of one topic stay in order.

    Args:
        source: the broker that events come from.
        target: the broker that events go to.
        group: runs the forwarding.
        heartbeat_s: seconds between two extensions of the ack deadline of an event that is on its way.
    """

    def __init__(self, source: Side, target: Side, group: asyncio.TaskGroup, heartbeat_s: float) -> None:
        self._source = source
        self._target = target
        self._group = group
        self._in_flight = InFlight(heartbeat_s)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._forwarded: OrderedDict[str, None] = OrderedDict()

    async def heartbeat(self) -> None:
        """Extend the ack deadline of every event that is on its way, until cancelled."""
        await self._in_flight.heartbeat()

    def start(
        self, topic_filter: str, durable: str, forward: ForwardEvent, *, start: Start = "first", at_once: int
    ) -> None:
        """Start to forward the events of a topic filter, in a task that ends with the group.

        Args:
            topic_filter: matches topics that are kept as events.
            durable: the source remembers under this name which events are acknowledged.
            forward: forwards one event.
            start: where to begin if the durable name is new.
            at_once: how many events may be on their way at once.
        """
        following = self._follow(topic_filter, durable, forward, start=start, at_once=at_once)
        self._group.create_task(following, name=f"forward {durable}")

    async def forward_unchanged(self, delivery: Delivery, payload: bytes) -> None:
        """Publish an event as it is. Implements `ForwardEvent`."""
        await self.forward_changed(delivery, payload, payload)

    async def forward_changed(self, delivery: Delivery, payload: bytes, changed: bytes) -> None:
        """Publish an event with another payload.

        Args:
            delivery: the event.
            payload: its payload; a copy of the event has the same.
            changed: the payload to publish.
        """
        await self._target.publish(delivery.topic, changed, dedupe=fingerprint(delivery.topic, payload))

    async def _follow(
        self, topic_filter: str, durable: str, forward: ForwardEvent, *, start: Start, at_once: int
    ) -> None:
        subscribed = self._source.broker.subscribe(topic_filter, durable=durable, start=start, prefetch=at_once)
        async with subscribed as deliveries:
            async for delivery in deliveries:
                self._group.create_task(self._handle(delivery, forward), name=f"{durable}.{delivery.sequence}")

    async def _handle(self, delivery: Delivery, forward: ForwardEvent) -> None:
        """Forward an event and acknowledge it, or ask for it again later."""
        key = f"{delivery.topic}#{delivery.sequence}"
        if await self._in_flight.adopt_or_ack_duplicate(key, delivery):
            return
        async with self._in_flight.track(key, delivery), self._locks.setdefault(delivery.topic, asyncio.Lock()):
            try:
                if key not in self._forwarded:
                    await self._forward_readable(key, delivery, forward)
            except BrokerError as exc:
                log.warning("an event can't be forwarded now", topic=delivery.topic, error=str(exc))
                await self._in_flight.nak(key, AGAIN_S)
            else:
                await self._in_flight[key].ack()

    async def _forward_readable(self, key: str, delivery: Delivery, forward: ForwardEvent) -> None:
        try:
            payload = await self._source.read(delivery)
        except CorruptPayload as exc:
            log.warning("an unreadable event is dropped", topic=delivery.topic, error=str(exc))
            return
        await forward(delivery, payload)
        self._target.count_late(delivery)
        self._forwarded[key] = None
        if len(self._forwarded) > REMEMBERED:
            self._forwarded.popitem(last=False)


def fingerprint(topic: str, payload: bytes) -> str:
    """A deduplication id for an event: every copy of the event has the same one.

    Args:
        topic: topic of the event.
        payload: payload of the event.
    """
    return hashlib.sha256(topic.encode() + b"\0" + payload).hexdigest()[:32]
