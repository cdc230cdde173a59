"""Workarounds for faults of nats-py's client, and for its copies."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from nats.aio.client import Client

CLOSE_S: Final = 2.0

_LINE_ENDS: Final = str.maketrans("\r\n", "  ")


@contextlib.contextmanager
def restore_cancellation() -> Iterator[None]:
    """Raise the cancellation that nats-py suppresses while it connects, closes, or waits for room in its buffer."""
    task = asyncio.current_task()
    cancellations = task.cancelling() if task else 0
    try:
        yield
    finally:
        # Also if nats-py has turned the cancellation into an error of its own.
        if task and task.cancelling() > cancellations:
            raise asyncio.CancelledError


async def close_client(client: Client) -> None:
    """Close a client within CLOSE_S: nats-py waits for the server, which may not respond."""
    try:
        with contextlib.suppress(TimeoutError), restore_cancellation():
            async with asyncio.timeout(CLOSE_S):
                await client.close()
    finally:
        # If the connection broke while there was data to send, nats-py fails before it ends its own tasks.
        for subscription in client._subs.values():
            if (task := subscription._wait_for_msgs_task) is not None:
                task.cancel()


def send_large(client: Client, subject: str, payload: bytes, *, reply: str, headers: Mapping[str, str]) -> None:
    """Write a large message at once, after what waits to be written.

    `Client.publish` copies the payload twice into a command, and asyncio copies what the socket does not take twice
    again. Here only asyncio copies it, once. A connection that breaks says so to whoever reads it.

    Args:
        client: a connected client.
        subject: subject of the message.
        payload: payload of the message.
        reply: subject for the answer; empty for none.
        headers: headers of the message.
    """
    lines = (f"{name}: {value.strip().translate(_LINE_ENDS)}\r\n" for name, value in headers.items())
    head = f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()
    command = f"HPUB {subject} {reply} {len(head)} {len(head) + len(payload)}\r\n".encode()
    # As nats-py's own `_flush_pending`, without a pause in which another message could come between.
    transport: Any = client._transport
    transport.writelines([*client._pending, command, head])
    client._pending, client._pending_data_size = [], 0
    transport.write(memoryview(payload))
    transport.write(b"\r\n")
