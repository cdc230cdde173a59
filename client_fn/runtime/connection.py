"""An instance's connection to the broker: opened when it is first wanted, and kept from connection to connection."""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import structlog

import broker
from broker.base import Broker
from broker.errors import BrokerError
from client_fn.errors import NoRoute

IDLE_S: Final = 60.0
"""A process that its platform freezes between two calls answers no pings. After so long the broker may have hung up,
or something on the way has without a word; that costs ten seconds to find out, and a new connection a hundredth."""

log = structlog.get_logger(__name__)


@dataclass
class _OpenConnection:
    """One connection: `ready` when it is open, until `over` is set."""

    ready: "asyncio.Future[Broker]"
    over: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class LazyConnection:
    """A connection to the broker; where it is lost, it is opened again.

    Args:
        url: of the broker.
        name: who we are, in the broker's own logs.
        group: where the connection lives.
        idle_s: how long nobody may have used it, for it to be taken as it is.
    """

    def __init__(self, url: str, name: str, group: asyncio.TaskGroup, *, idle_s: float = IDLE_S) -> None:
        self._url, self._name, self._group, self._idle_s = url, name, group, idle_s
        self._current: _OpenConnection | None = None
        self._users = 0
        self._used_s = 0.0

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[Broker]:
        """The connection, which is not replaced as long as anybody holds it.

        Raises:
            NoRoute: there is no address.
            BrokerError: it can't be opened.
        """
        loop = asyncio.get_running_loop()
        if not self._users and loop.time() - self._used_s > self._idle_s:
            self.close()
        self._users += 1
        try:
            # Others may wait for the same connection: giving up is no reason to close it.
            yield await asyncio.shield(self._opened().ready)
        finally:
            self._users -= 1
            self._used_s = loop.time()

    def close(self) -> None:
        """Have the connection closed, if there is one; nobody waits for that."""
        if self._current is not None:
            self._current.over.set()
            self._current = None

    def _opened(self) -> _OpenConnection:
        if not self._url:
            raise NoRoute
        if self._current is None or self._current.ended:
            self._current = _OpenConnection(asyncio.get_running_loop().create_future())
            # What it logs is not about the task that it happens to be opened for.
            apart = contextvars.Context()
            self._group.create_task(self._keep(self._current), name=f"connection of {self._name}", context=apart)
        return self._current

    async def _keep(self, connection: _OpenConnection) -> None:
        try:
            async with broker.connect(self._url, name=self._name, provision=False) as bus:
                connection.ready.set_result(bus)
                await connection.over.wait()
        except BrokerError as exc:
            log.warning("no connection to the broker", error=str(exc))
            if not connection.ready.done():
                connection.ready.set_exception(exc)
                # Whoever waited may have given up, and asyncio complains of errors that nobody looks at.
                connection.ready.exception()
        finally:
            connection.ended = True
