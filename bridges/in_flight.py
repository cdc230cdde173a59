"""Deliveries that are being worked on: the broker is told so until their work is done."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import structlog

from broker.base import ACK_WAIT_S, Delivery
from broker.errors import BrokerError

log = structlog.get_logger(__name__)

HEARTBEAT_S: Final = ACK_WAIT_S / 3


class InFlight:
    """What this process works on, by a name for the work.

    Args:
        heartbeat_s: how often the broker is told.
    """

    def __init__(self, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._heartbeat_s = heartbeat_s
        self._deliveries: dict[str, Delivery] = {}

    def __getitem__(self, name: str) -> Delivery:
        return self._deliveries[name]

    async def adopt_or_ack_duplicate(self, name: str, delivery: Delivery) -> bool:
        """Whether this very work is under way already; a second copy of its message is acknowledged."""
        held = self._deliveries.get(name)
        if held is None:
            return False
        if held.sequence == delivery.sequence:
            # The broker lost patience with us: from now on the newer delivery is the one to acknowledge.
            self._deliveries[name] = delivery
        else:
            await delivery.ack()
        return True

    @contextlib.contextmanager
    def working(self, name: str, delivery: Delivery) -> Iterator[None]:
        """Hold a delivery until the end of the block."""
        self._deliveries[name] = delivery
        try:
            yield
        finally:
            del self._deliveries[name]

    async def heartbeat(self) -> None:
        """Tell the broker for ever."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            for delivery in list(self._deliveries.values()):
                try:
                    await delivery.working()
                except BrokerError as exc:
                    log.warning("the broker does not hear that something is being worked on", error=str(exc))
