"""Machines with a bridge of the platform `edge`, which is a machine of its own."""

import asyncio

from bridges import presence
from bridges.errors import PlatformTaken
from bridges.machine import Machine
from bridges.ownership import open_ownership
from bridges.platform import Condition
from bridges.presence import Bridge
from broker.base import Broker
from broker.deliveries import Value
from broker.messages import codec
from broker.messages.register import Presence


class Board:
    """A machine with a bridge of the platform `edge`."""

    def __init__(self, bus: Broker, id_: str, host: str = "", every_s: float = 0.2) -> None:
        self.bus = bus
        self.is_able = True
        condition = lambda: Condition(is_able=self.is_able)  # noqa: E731
        machine = Machine(host or f"host-{id_}", id_)
        self.bridge = Bridge("edge", is_own=True, machine=machine, condition=condition, every_s=every_s)
        self.is_up = asyncio.Event()
        self.ended: BaseException | None = None

    async def serve(self) -> None:
        """Claim the name, and announce the bridge until another machine has the name."""
        bridge = self.bridge
        try:
            async with open_ownership(self.bus, bridge.platform, bridge.id, bridge.machine) as ownership:
                await presence.announce(self.bus, bridge, ownership=ownership, on_announced=self.is_up.set)
        except PlatformTaken as exc:
            self.ended = exc

    async def wait_until(self, *, gone: bool) -> None:
        """Wait until its presence says that it is there, or that it has gone."""
        async with self.bus.watch(self.bridge.topic) as values:
            async for value in values:
                if isinstance(value, Value) and codec.decode(Presence, value.payload).gone is gone:
                    return

    async def retained(self) -> Presence:
        value = await self.bus.get(self.bridge.topic)
        assert value is not None
        return codec.decode(Presence, value.payload)
