"""Workarounds for faults of nats-py's client."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from nats.aio.client import Client

CLOSE_S: Final = 2.0


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
