"""Reports a service's state to systemd: the datagrams of sd_notify(3), without its library.

With `Type=notify`, systemd counts a unit as started after `ready`. With `WatchdogSec=`, systemd restarts a unit whose
event loop stood still for that time. Outside systemd, these functions do nothing.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Final

from broker.support import loggers
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

SEND_S: Final = 1.0
"""Longest time to wait for systemd, which normally reads at once. The service's work is more important."""


def ready(text: str) -> None:
    """Report that the service is up. May be called again.

    Args:
        text: one line that `systemctl status` shows.
    """
    _send(f"READY=1\nSTATUS={text}")


def starts_within(seconds: float) -> None:
    """Report that the start may take so long, whatever the unit says (sd_notify(3), EXTEND_TIMEOUT_USEC).

    Args:
        seconds: from now on.
    """
    _send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")


def status(text: str) -> None:
    """Report what the service does now.

    Args:
        text: one line that `systemctl status` shows.
    """
    _send(f"STATUS={text}")


@contextlib.asynccontextmanager
async def watchdog() -> AsyncIterator[None]:
    """Send watchdog signals while the event loop runs. The end of the block reports that the service stops."""
    interval_s = _watchdog_interval_s(os.environ)

    async def send_signals() -> None:
        while interval_s:
            _send("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    async with task_group() as group:
        signals = group.create_task(send_signals(), name="watchdog")
        try:
            yield
        finally:
            _send("STOPPING=1")
            signals.cancel()


def _watchdog_interval_s(environ: Mapping[str, str]) -> float:
    """Return half of systemd's watchdog timeout, in seconds; 0 if systemd has no watchdog for this process."""
    pid, timeout_us = environ.get("WATCHDOG_PID", str(os.getpid())), environ.get("WATCHDOG_USEC", "")
    if pid != str(os.getpid()) or not timeout_us.isdecimal():
        return 0.0
    return int(timeout_us) / 1e6 / 2


def _send(message: str) -> None:
    """Send a datagram to systemd, if systemd started this process."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(SEND_S)
        try:
            # A leading @ stands for the zero byte of an abstract address, which has no file.
            connection.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as exc:
            log.warning("a message did not reach systemd", message=message, error=str(exc))
