"""What is retained under some filters, and then everything that happens there, over however many connections."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import structlog

from broker.errors import Disconnected
from broker.mqtt.client import Message
from broker.mqtt.link import Connection, Link
from broker.reconnect import CALL_S, pause
from broker.support.tasks import task_group

_log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Who wants to know. Neither method may raise."""

    def synced(self, found: dict[str, Message]) -> None:
        """Everything that lies there, at the beginning and after every reconnection."""

    def heard(self, message: Message) -> None:
        """Something that was published since; it may have been in `found` already."""


@contextlib.asynccontextmanager
async def following(link: Link, filters: Sequence[str], listener: Listener) -> AsyncIterator[None]:
    """Tell a listener; it knows what is retained when this is entered.

    Raises:
        Denied: we may not read that.
        Disconnected: the broker did not get it done in time.
    """
    opened = asyncio.Event()
    async with task_group() as group:
        task = group.create_task(_follow(link, filters, listener, opened), name=f"mqtt feed of {filters[0]}")
        try:
            async with asyncio.timeout(CALL_S):
                await opened.wait()
        except TimeoutError as exc:
            raise Disconnected(f"{filters[0]}: no subscription after {CALL_S} s") from exc
        yield
        task.cancel()


async def _follow(link: Link, filters: Sequence[str], listener: Listener, opened: asyncio.Event) -> None:
    for tries in itertools.count():
        connection = await link.connection()
        try:
            await _session(connection, filters, listener, opened)
        except Disconnected as exc:
            _log.debug("subscribing anew", filter=filters[0], error=str(exc))
            await asyncio.sleep(pause(min(tries, 8)))


async def _session(connection: Connection, filters: Sequence[str], listener: Listener, opened: asyncio.Event) -> None:
    ear = _Ear(listener)
    async with connection.hearing(filters, ear.receive):
        # Subscribed before it is fetched, nothing can be missed in between.
        ear.sync(await connection.fetch(*filters))
        opened.set()
        await connection.lost.wait()


class _Ear:
    """Holds back what is published before everything else was fetched."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._early: list[Message] = []
        self._is_synced = False

    def receive(self, message: Message) -> None:
        if self._is_synced:
            self._listener.heard(message)
        else:
            self._early.append(message)

    def sync(self, found: dict[str, Message]) -> None:
        self._listener.synced(found)
        self._is_synced = True
        for message in self._early:
            self._listener.heard(message)
