"""Follows MQTT filters across reconnections: first the retained messages, then everything that is published."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from broker.errors import Disconnected
from broker.mqtt.client import Message
from broker.mqtt.link import Connection, Link
from broker.reconnect import CALL_S, pause
from broker.support import loggers
from broker.support.tasks import task_group

_log = loggers.get_logger(__name__)


class Listener(Protocol):
    """A receiver of messages. Its methods must not raise."""

    def on_snapshot(self, payloads: dict[str, bytes]) -> None:
        """Receive all retained messages, by MQTT topic: at the start, and after every reconnection."""

    def on_message(self, message: Message) -> None:
        """Receive a message that was published later. It may already have been in the snapshot."""


class Feed:
    """Feeds one listener; `follow` runs it.

    Args:
        link: the link to the broker.
        filters: MQTT filters.
        listener: receives the messages.
    """

    def __init__(self, link: Link, filters: Sequence[str], listener: Listener) -> None:
        self._link = link
        self._filters = filters
        self._listener = listener
        self._following = asyncio.Event()
        self._connection: Connection | None = None

    async def wait_until_following(self) -> Connection:
        """Return the current connection, once the listener has received the first snapshot on it."""
        while self._connection is None:
            await self._following.wait()
        return self._connection

    async def receive_all(self) -> None:
        """Return when the listener has received everything that the broker held at this call.

        A connection that is lost meanwhile does not count: the next one begins with a snapshot.
        """
        while True:
            connection = await self.wait_until_following()
            try:
                await connection.receive_all()
            except Disconnected as exc:
                _log.debug("catching up again", filter=self._filters[0], error=str(exc))
                await asyncio.sleep(pause(0))
            else:
                return

    async def run(self) -> None:
        """Feed the listener until cancelled."""
        for tries in itertools.count():
            connection = await self._link.connection()
            buffer = _Buffer(self._listener)
            try:
                async with connection.listen(self._filters, buffer.on_message):
                    # Listening starts before the fetch, so no message is lost between the two.
                    buffer.on_snapshot(await connection.fetch(*self._filters))
                    self._connection = connection
                    self._following.set()
                    await connection.lost.wait()
            except Disconnected as exc:
                _log.debug("subscribing again", filter=self._filters[0], error=str(exc))
                await asyncio.sleep(pause(min(tries, 8)))
            finally:
                self._connection = None
                self._following.clear()


@contextlib.asynccontextmanager
async def follow(link: Link, filters: Sequence[str], listener: Listener) -> AsyncIterator[Feed]:
    """Feed a listener during the block. It has received the first snapshot when the block starts.

    Args:
        link: the link to the broker.
        filters: MQTT filters.
        listener: receives the messages.

    Raises:
        Denied: this user may not read that.
        Disconnected: the broker did not reply in time.
    """
    feed = Feed(link, filters, listener)
    async with task_group() as group:
        task = group.create_task(feed.run(), name=f"mqtt feed of {filters[0]}")
        try:
            async with asyncio.timeout(CALL_S):
                await feed.wait_until_following()
        except TimeoutError as exc:
            raise Disconnected(f"{filters[0]}: no subscription after {CALL_S} s") from exc
        yield feed
        task.cancel()


class _Buffer:
    """Holds published messages back until the snapshot has been delivered."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._early: list[Message] = []
        self._has_snapshot = False

    def on_message(self, message: Message) -> None:
        if self._has_snapshot:
            self._listener.on_message(message)
        else:
            self._early.append(message)

    def on_snapshot(self, payloads: dict[str, bytes]) -> None:
        self._listener.on_snapshot(payloads)
        self._has_snapshot = True
        for message in self._early:
            self._listener.on_message(message)
