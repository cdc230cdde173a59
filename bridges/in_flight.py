"""Deliveries in progress. A heartbeat extends each one's ack deadline until the work is done."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from broker.base import ACK_WAIT_S
from broker.deliveries import Delivery
from broker.errors import BrokerError
from broker.support import loggers

log = loggers.get_logger(__name__)

HEARTBEAT_S: Final = ACK_WAIT_S / 3
"""Two heartbeats may get lost before the broker delivers a message again."""

GIVE_BACK_S: Final = 1.0
"""How long a process that ends tries to give a delivery back. Seconds."""


@dataclass
class _Work:
    delivery: Delivery


class InFlight:
    """The deliveries that this process works on, each under a key that names the work.

    `in_flight[key]` is the delivery to acknowledge: the newest one, if the broker has delivered a message again.

    Args:
        heartbeat_s: seconds between two heartbeats.
    """

    def __init__(self, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._heartbeat_s = heartbeat_s
        self._works: dict[str, _Work] = {}

    def __getitem__(self, key: str) -> Delivery:
        return self._works[key].delivery

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
        work = self._works.get(key)
        if work is None:
            return False
        if work.delivery.sequence == delivery.sequence:
            # The ack deadline of the first delivery has passed: only the newer one can be acknowledged.
            work.delivery = delivery
        else:
            await delivery.ack()
        return True

    @contextlib.asynccontextmanager
    async def track(self, key: str, delivery: Delivery) -> AsyncIterator[None]:
        """Keep a delivery in progress until the end of the block. If the work is cancelled, give the delivery back.

        Args:
            key: names the work.
            delivery: the message that asks for the work.
        """
        work = _Work(delivery)
        self._works[key] = work
        try:
            yield
        except asyncio.CancelledError:
            # An orderly stop: another process need not wait until the ack deadline has passed.
            if self._works.get(key) is work:
                await _give_back(work.delivery)
            raise
        finally:
            # After `nak` another delivery may be in progress under this key.
            if self._works.get(key) is work:
                del self._works[key]

    async def nak(self, key: str, delay_s: float) -> None:
        """Give a delivery back. From now on a delivery of the same message is new work, even before this returns.

        Args:
            key: names the work.
            delay_s: seconds until the broker delivers it again, at the earliest.
        """
        await self._works.pop(key).delivery.nak(delay_s)

    async def heartbeat(self) -> None:
        """Extend the ack deadline of every delivery again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            for work in list(self._works.values()):
                try:
                    await work.delivery.working()
                except BrokerError as exc:
                    log.warning("a heartbeat did not reach the broker", topic=work.delivery.topic, error=str(exc))


async def _give_back(delivery: Delivery) -> None:
    """Give a delivery back at once. A broker that is out of reach delays the end of this process by GIVE_BACK_S."""
    try:
        async with asyncio.timeout(GIVE_BACK_S):
            await delivery.nak()
    except (TimeoutError, BrokerError) as exc:
        log.warning(
            "a delivery is not given back; it comes again after its ack deadline", error=str(exc) or "no answer"
        )
