"""Detects whether data still moves on a connection, because a slow link can delay answers for a long time."""

import contextlib
import fcntl
import struct
import sys
import termios
from typing import Final

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_MSG_PAYLOAD

LARGE_BYTES: Final = 64 << 10
"""Smaller messages pass every link in a moment, so they are no sign of progress."""

SMALL_BYTES: Final = 8 << 10
"""Likewise, so little unacknowledged data is none: a few small requests are always on their way."""


class TrafficMonitor:
    """Compares the amounts of data in transit on a connection.

    Args:
        client: the client that owns the connection.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._previous = (0, 0)

    def has_moved(self) -> bool:
        """Return whether the data in transit, in either direction, has changed since the last call."""
        current = self._unacknowledged_bytes(), self._received_bytes()
        previous, self._previous = self._previous, current
        return current != previous

    def _unacknowledged_bytes(self) -> int:
        """Return the bytes sent that the server has not acknowledged (TCP)."""
        writer = getattr(self._client._transport, "_io_writer", None)
        if writer is None or writer.is_closing():
            return 0
        waiting = self._client._pending_data_size + writer.transport.get_write_buffer_size()
        unacknowledged = int(waiting) + _kernel_send_queue(writer.get_extra_info("socket"))
        return unacknowledged if unacknowledged > SMALL_BYTES else 0

    def _received_bytes(self) -> int:
        """Return the bytes received of an incomplete large message."""
        parser = self._client._ps
        is_large = parser.state == AWAITING_MSG_PAYLOAD and parser.needed > LARGE_BYTES
        return len(parser.buf) if is_large else 0


def _kernel_send_queue(socket: object) -> int:
    """Return the bytes in the kernel's send queue (tcp(7), SIOCOUTQ); 0 if unknown."""
    fileno = getattr(socket, "fileno", lambda: -1)()
    if fileno < 0 or sys.platform != "linux":
        return 0
    with contextlib.suppress(OSError):
        queued: int = struct.unpack("i", fcntl.ioctl(fileno, termios.TIOCOUTQ, bytes(4)))[0]
        return queued
    return 0
