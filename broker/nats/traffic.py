"""Whether bytes still move on a connection: on a slow link, silence means nothing as long as they do."""

import contextlib
import fcntl
import struct
import sys
import termios
from typing import Final

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_MSG_PAYLOAD

LARGE_BYTES: Final = 64 << 10
"""Less than that is a matter of moments on any link."""


class Progress:
    """What is under way in either direction.

    Args:
        client: whose connection it is.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._before = (0, 0)

    def goes_on(self) -> bool:
        """Whether something was under way, now or then, and has moved since this was asked last."""
        now = self._outgoing(), self._incoming()
        before, self._before = self._before, now
        return now != before

    def _outgoing(self) -> int:
        """Bytes that the server has not acknowledged yet."""
        writer = getattr(self._client._transport, "_io_writer", None)
        if writer is None or writer.is_closing():
            return 0
        waiting = self._client._pending_data_size + writer.transport.get_write_buffer_size()
        return int(waiting) + _in_kernel(writer.get_extra_info("socket"))

    def _incoming(self) -> int:
        """Bytes of a large message that is not complete yet."""
        parser = self._client._ps
        large = parser.state == AWAITING_MSG_PAYLOAD and parser.needed > LARGE_BYTES
        return len(parser.buf) if large else 0


def _in_kernel(socket: object) -> int:
    """What the kernel still holds of what was sent (tcp(7), SIOCOUTQ)."""
    fileno = getattr(socket, "fileno", lambda: -1)()
    if fileno < 0 or sys.platform != "linux":
        return 0
    with contextlib.suppress(OSError):
        answer: int = struct.unpack("i", fcntl.ioctl(fileno, termios.TIOCOUTQ, bytes(4)))[0]
        return answer
    return 0
