"""Announces that a bridge is running, so that the server invites its clients."""

import asyncio
import contextlib
import hashlib
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from broker import topics
from broker.base import Broker
from broker.deliveries import Will
from broker.errors import BrokerError
from broker.messages import codec
from broker.messages.register import Presence
from broker.support.broker_time import BrokerTime

log = structlog.get_logger(__name__)

EVERY_S: Final = 5.0
"""Seconds between two announcements."""

GOODBYE_S: Final = 1.0
"""How long a bridge that ends tries to announce it. Seconds."""


def will(platform: str) -> Will:
    """The will of a bridge: if its connection is lost, the broker publishes that the bridge is gone, where it can."""
    gone = Presence(bridge=bridge_id(platform), platform=platform, every_s=EVERY_S, gone=True)
    return Will(topics.presence(gone.platform, gone.bridge), codec.encode(gone))


def bridge_id(platform: str, host: str | None = None) -> str:
    """The id of a platform's bridge on a machine: the same after a restart, different on every other machine.

    Args:
        platform: name of the platform.
        host: name of the machine; None: this one.
    """
    digest = hashlib.sha256((host or socket.gethostname()).encode()).hexdigest()
    return f"{platform[:31]}-{digest[:8]}"


async def announce(
    broker: Broker,
    platform: str,
    *,
    every_s: float = EVERY_S,
    broker_time: BrokerTime | None = None,
    on_announced: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Announce the bridge again and again until cancelled, and then that it is gone.

    Args:
        broker: the connection.
        platform: name of the bridge's platform.
        every_s: seconds between two announcements.
        broker_time: gets the time at which the broker stored each announcement.
        on_announced: called after each announcement.
        clock: returns seconds since the epoch.
    """
    presence = Presence(bridge=bridge_id(platform), platform=platform, every_s=every_s)
    try:
        while True:
            await _put(broker, msgspec.structs.replace(presence, clock_s=clock()))
            if broker_time is not None:
                broker_time.note(await _stored_s(broker, presence))
            on_announced()
            await asyncio.sleep(every_s)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await _put(broker, msgspec.structs.replace(presence, gone=True))


async def _stored_s(broker: Broker, presence: Presence) -> float | None:
    """Return when the broker stored the last announcement, on its clock; None if it does not say."""
    try:
        value = await broker.get(topics.presence(presence.platform, presence.bridge))
    except BrokerError as exc:
        log.debug("the time of the bridge's presence is not known", error=str(exc))
        return None
    return None if value is None else value.time_s


async def _put(broker: Broker, presence: Presence) -> None:
    try:
        await broker.put(topics.presence(presence.platform, presence.bridge), codec.encode(presence))
    except BrokerError as exc:
        log.warning("the bridge's presence did not reach the broker", error=str(exc))
