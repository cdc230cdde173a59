"""Restarts a service whose connection to the broker was lost for too long."""

import asyncio
from collections.abc import Awaitable, Callable

from broker.errors import ConnectFailed, Disconnected, StoreChanged
from broker.support import loggers, memory
from fedkeeper.services import notify

log = loggers.get_logger(__name__)


async def run_with_restarts(service: Callable[[], Awaitable[None]], pause_s: float = 1.0) -> None:
    """Run a service until cancelled. Start it again, as after a crash, whenever it loses the broker.

    Args:
        service: connects to the broker and works. It keeps all of its state at the broker.
        pause_s: seconds to wait before the next start.

    Raises:
        ConnectFailed: the service never had a connection.
    """
    with memory.kept() as seen_before:
        await _run(service, pause_s, seen_before.clear)


async def _run(service: Callable[[], Awaitable[None]], pause_s: float, forget: Callable[[], None]) -> None:
    was_connected = False
    while True:
        status = "the broker is out of reach; trying again"
        try:
            await service()
        except StoreChanged as exc:
            was_connected, status = True, "the broker's store has changed; starting over"
            forget()
            log.error("starting over from what the broker has now", error=str(exc))  # noqa: TRY400 (its text is enough)
        except Disconnected as exc:
            was_connected = True
            log.warning("the broker is out of reach; starting over", error=str(exc))
        except ConnectFailed as exc:
            if not was_connected:
                raise
            log.warning("the broker is still out of reach", error=str(exc))
        notify.status(status)
        await asyncio.sleep(pause_s)
