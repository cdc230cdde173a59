"""Deliveries in progress. A heartbeat extends each one's ack deadline until the work is done."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import structlog

from broker.base import ACK_WAIT_S, Delivery
from broker.errors import BrokerError

log = structlog.get_logger(__name__)

HEARTBEAT_S: Final = ACK_WAIT_S / 3
"""Two heartbeats may get lost before the broker delivers a message again."""


class InFlight:
    """The deliveries that this process works on, each under a key that names the work.

    `in_flight[key]` is the delivery to acknowledge: the newest one, if the broker has delivered a message again.

    Args:
        heartbeat_s: seconds between two heartbeats.
    """

    def __init__(self, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._heartbeat_s = heartbeat_s
        self._deliveries: dict[str, Delivery] = {}

    def __getitem__(self, key: str) -> Delivery:
        return self._deliveries[key]

    async def adopt_or_ack_duplicate(self, key: str, delivery: Delivery) -> bool:
        """Handle a delivery of work that is in progress already.

        If it is the same message, delivered again, it replaces the first delivery. If it is a second copy of the
        message, it is acknowledged.

        Args:
            key: names the work.
            delivery: a new delivery.

        Returns:
            True if the work is in progress already; False if the caller must do it.
        """
        current = self._deliveries.get(key)
        if current is None:
            return False
        if current.sequence == delivery.sequence:
            # The ack deadline of the first delivery has passed: only the newer one can be acknowledged.
            self._deliveries[key] = delivery
        else:
            await delivery.ack()
        return True

    @contextlib.contextmanager
    def track(self, key: str, delivery: Delivery) -> Iterator[None]:
        """Keep a delivery in progress until the end of the block.

        Args:
            key: names the work.
            delivery: the message that asks for the work.
        """
        self._deliveries[key] = delivery
        try:
            yield
        finally:
            del self._deliveries[key]

    async def heartbeat(self) -> None:
        """Extend the ack deadline of every delivery again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            for delivery in list(self._deliveries.values()):
                try:
                    await delivery.working()
                except BrokerError as exc:
                    log.warning("a heartbeat did not reach the broker", topic=delivery.topic, error=str(exc))
