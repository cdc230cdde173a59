"""Starts a part of the system over when its broker was out of reach for too long."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from broker.errors import ConnectFailed, Disconnected
from fedkeeper import notify

log = structlog.get_logger(__name__)


async def kept_up(part: Callable[[], Awaitable[None]], pause_s: float = 1.0) -> None:
    """Run a part for ever: whenever the broker was out of reach for too long, it starts over, as after a crash.

    Args:
        part: connects and works; everything that matters to it is with the broker.
        pause_s: how long to wait before it starts over.

    Raises:
        ConnectFailed: it could not connect the first time.
    """
    worked = False
    while True:
        try:
            await part()
        except Disconnected as exc:
            worked = True
            log.warning("the broker is out of reach; starting over", error=str(exc))
        except ConnectFailed as exc:
            if not worked:
                raise
            log.warning("the broker is still out of reach", error=str(exc))
        notify.status("the broker is out of reach; trying again")
        await asyncio.sleep(pause_s)
