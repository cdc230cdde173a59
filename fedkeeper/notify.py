"""Tells systemd how a service does: the datagrams of sd_notify(3), without its library.

A unit with `Type=notify` counts as started once `ready` was called. One with `WatchdogSec=` is ended and started again
when its event loop has stood still for so long. Started by anything else than systemd, all of this does nothing.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Final

import structlog

from broker.support.tasks import task_group

log = structlog.get_logger(__name__)

SEND_S: Final = 1.0
"""systemd reads at once; if it does not, work is more important than what we have to say of it."""


def ready(status: str) -> None:
    """The service does what it is there for; may be said again.

    Args:
        status: one line for people, as `systemctl status` shows it.
    """
    _tell(f"READY=1\nSTATUS={status}")


def status(text: str) -> None:
    """What the service is doing: one line for people."""
    _tell(f"STATUS={text}")


@contextlib.asynccontextmanager
async def alive() -> AsyncIterator[None]:
    """Keeps the watchdog quiet as long as the event loop turns; at the end of the block the service is stopping."""
    async with task_group() as group:
        beating = group.create_task(_beat(_interval_s(os.environ)), name="watchdog")
        try:
            yield
        finally:
            _tell("STOPPING=1")
            beating.cancel()


async def _beat(interval_s: float) -> None:
    while interval_s:
        _tell("WATCHDOG=1")
        await asyncio.sleep(interval_s)


def _interval_s(environ: Mapping[str, str]) -> float:
    """Half of the time after which systemd loses its patience; 0 if it has no watchdog for this very process."""
    pid, patience_us = environ.get("WATCHDOG_PID", str(os.getpid())), environ.get("WATCHDOG_USEC", "")
    if pid != str(os.getpid()) or not patience_us.isdecimal():
        return 0.0
    return int(patience_us) / 1e6 / 2


def _tell(what: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
        line.settimeout(SEND_S)
        try:
            # A leading @ stands for the zero byte of an abstract address: there is no file then.
            line.sendto(what.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as exc:
            log.warning("systemd can't be told", what=what, error=str(exc))
