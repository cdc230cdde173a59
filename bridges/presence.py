"""Announces that a bridge is running, so that the server invites its clients."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from bridges.machine import Machine, this_machine
from bridges.ownership import Ownership
from bridges.platform import Condition
from bridges.problems import Problems
from broker import topics
from broker.base import Broker
from broker.deliveries import Will
from broker.errors import BrokerError
from broker.messages import codec
from broker.messages.register import Presence
from broker.support import loggers
from broker.support.broker_time import BrokerTime

log = loggers.get_logger(__name__)

EVERY_S: Final = 5.0
"""Seconds between two announcements."""

GOODBYE_S: Final = 1.0
"""How long a bridge that ends tries to announce it. Seconds."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """What a bridge's presence says of it.

    Attributes:
        platform: name of the platform.
        is_own: whether the platform is this machine.
        machine: the machine that the bridge runs on.
        address: the broker's address, without credentials.
        condition: returns the platform's condition.
        problems: what fails.
        every_s: seconds between two announcements.
    """

    platform: str
    is_own: bool = False
    machine: Machine = field(default_factory=this_machine)
    address: str = ""
    condition: Callable[[], Condition] = Condition
    problems: Problems = field(default_factory=Problems)
    every_s: float = EVERY_S

    @property
    def id(self) -> str:
        """The bridge's name."""
        return bridge_id(self.platform, self.machine.name)

    @property
    def topic(self) -> str:
        """Where its presence is retained."""
        return topics.presence(self.platform, self.id)

    def presence(self) -> Presence:
        """Return the bridge's presence now. A bridge of a platform on which no task can run is as good as gone."""
        condition = self.condition()
        host = msgspec.structs.replace(
            self.machine.host(),
            broker=self.address,
            processor=condition.processor,
            device=condition.device,
            problem="; ".join(filter(None, (condition.problem, *self.problems.texts.values()))),
        )
        return Presence(
            bridge=self.id,
            platform=self.platform,
            every_s=self.every_s,
            gone=not condition.is_able,
            is_own=self.is_own,
            host=host,
        )


def will(bridge: Bridge) -> Will:
    """The will of a bridge: if its connection is lost, the broker publishes that the bridge is gone, where it can."""
    return Will(bridge.topic, codec.encode(msgspec.structs.replace(bridge.presence(), gone=True)))


def bridge_id(platform: str, host: str) -> str:
    """The id of a platform's bridge on a machine: the same after a restart, different for every other host name.

    Args:
        platform: name of the platform.
        host: name of the machine.
    """
    return f"{platform[:31]}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


async def announce(
    broker: Broker,
    bridge: Bridge,
    *,
    ownership: Ownership | None = None,
    broker_time: BrokerTime | None = None,
    on_announced: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Announce the bridge again and again until cancelled, and then that it is gone.

    Args:
        broker: the connection.
        bridge: what is announced.
        ownership: this machine's claim to the platform's name; None: machines may share the name.
        broker_time: gets the time at which the broker stored each announcement.
        on_announced: called after each announcement.
        clock: returns seconds since the epoch.

    Raises:
        PlatformTaken: another machine keeps the platform's name.
    """
    try:
        while True:
            since_s = 0.0 if ownership is None else ownership.since_s
            presence = msgspec.structs.replace(bridge.presence(), clock_s=clock(), since_s=since_s)
            await _put(broker, presence)
            stored_s = await _stored_s(broker, bridge.topic)
            if broker_time is not None:
                broker_time.note(stored_s)
            if ownership is not None and not presence.gone:
                if not since_s:
                    ownership.since_s = ownership.since_s or stored_s or clock()
                    continue
                await ownership.check()
            elif ownership is not None:
                # Another machine may have the name meanwhile. This one would go on taking its tasks, and can run none.
                ownership.since_s = 0.0
                await ownership.check()
            on_announced()
            await _sleep(bridge.every_s, ownership)
    finally:
        if ownership is None or not ownership.is_topic_shared:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await _put(broker, msgspec.structs.replace(bridge.presence(), gone=True))


async def _sleep(seconds: float, ownership: Ownership | None) -> None:
    """Wait until the next announcement is due: at once when another machine's goodbye has replaced the last one."""
    if ownership is None:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ownership.overwritten.wait()
    ownership.overwritten.clear()


async def _stored_s(broker: Broker, topic: str) -> float | None:
    """Return when the broker stored the last announcement, on its clock; None if it does not say."""
    try:
        value = await broker.get(topic)
    except BrokerError as exc:
        log.debug("the time of the bridge's presence is not known", error=str(exc))
        return None
    return None if value is None else value.time_s


async def _put(broker: Broker, presence: Presence) -> None:
    try:
        await broker.put(topics.presence(presence.platform, presence.bridge), codec.encode(presence))
    except BrokerError as exc:
        log.warning("the bridge's presence did not reach the broker", error=str(exc))
