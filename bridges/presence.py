"""Says that a bridge is there, so that the server counts on its clients."""

import asyncio
import contextlib
import hashlib
import socket
from typing import Final

import msgspec
import structlog

from broker import topics
from broker.base import Broker, Will
from broker.errors import BrokerError
from broker.messages import codec
from broker.messages.register import Presence

log = structlog.get_logger(__name__)

EVERY_S: Final = 5.0
GOODBYE_S: Final = 1.0


def will(platform: str) -> Will:
    """What a broker that can shall say for a bridge that vanishes."""
    gone = Presence(bridge=bridge_id(platform), platform=platform, every_s=EVERY_S, gone=True)
    return Will(topics.presence(gone.platform, gone.bridge), codec.encode(gone))


def bridge_id(platform: str, host: str | None = None) -> str:
    """A bridge's name: the same whenever it starts on this machine, and another on every other."""
    digest = hashlib.sha256((host or socket.gethostname()).encode()).hexdigest()
    return f"{platform[:31]}-{digest[:8]}"


async def announce(broker: Broker, platform: str, *, every_s: float = EVERY_S) -> None:
    """Say so until cancelled, and then goodbye."""
    here = Presence(bridge=bridge_id(platform), platform=platform, every_s=every_s)
    try:
        while True:
            await _say(broker, here)
            await asyncio.sleep(every_s)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await _say(broker, msgspec.structs.replace(here, gone=True))


async def _say(broker: Broker, presence: Presence) -> None:
    try:
        await broker.put(topics.presence(presence.platform, presence.bridge), codec.encode(presence))
    except BrokerError as exc:
        log.warning("nobody hears that this bridge is there", error=str(exc))
