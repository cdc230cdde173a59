"""An instance's connection to the broker, opened at first use and replaced when it is lost or old."""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import broker
from broker.base import Broker
from broker.errors import BrokerError
from broker.support import loggers
from client_fn.errors import NoRoute

IDLE_S: Final = 60.0
"""A process that its platform freezes between two calls answers no pings. After this time the broker, or a device in
between, may have closed the connection unnoticed. To detect that takes ten seconds, to connect again a hundredth."""

log = loggers.get_logger(__name__)


@dataclass
class _Connection:
    ready: "asyncio.Future[Broker]"
    close_requested: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: bool = False


class LazyConnection:
    """A connection to the broker that opens at first use, and again after it is lost.

    Args:
        url: the broker's address.
        name: the connection's name in the broker's logs.
        group: runs the task that keeps the connection open.
        idle_s: a connection that was not used for so long is replaced.
    """

    def __init__(self, url: str, name: str, group: asyncio.TaskGroup, *, idle_s: float = IDLE_S) -> None:
        self._url, self._name, self._group, self._idle_s = url, name, group, idle_s
        self._current: _Connection | None = None
        self._users = 0
        self._used_s = 0.0

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Broker]:
        """Use the connection. It is not replaced for its age while it is in use.

        Raises:
            NoRoute: the address is empty.
            BrokerError: the connection can't be opened.
        """
        loop = asyncio.get_running_loop()
        if not self._users and loop.time() - self._used_s > self._idle_s:
            self.close()
        self._users += 1
        try:
            if not self._url:
                raise NoRoute(
                    'this function has no broker: set FEDKEEPER_URL, or set `reply = "response"` in the bridge\'s file'
                )
            if self._current is None or self._current.is_closed:
                self._current = _Connection(loop.create_future())
                # A new context: the connection's logs must not carry the fields of the task that opens it.
                context = contextvars.Context()
                keeper = self._keep_open(self._current)
                self._group.create_task(keeper, name=f"connection of {self._name}", context=context)
            # Shielded: cancelling one user must not cancel the future that other users wait for.
            yield await asyncio.shield(self._current.ready)
        finally:
            self._users -= 1
            self._used_s = loop.time()

    def close(self) -> None:
        """Close the connection in the background, if there is one."""
        if self._current is not None:
            self._current.close_requested.set()
            self._current = None

    async def _keep_open(self, connection: _Connection) -> None:
        try:
            async with broker.connect(self._url, name=self._name, provision=False) as bus:
                connection.ready.set_result(bus)
                await connection.close_requested.wait()
        except BrokerError as exc:
            log.warning("no connection to the broker", error=str(exc))
            if not connection.ready.done():
                connection.ready.set_exception(exc)
                # Mark the error as retrieved: if all users were cancelled, asyncio would log a complaint.
                connection.ready.exception()
        finally:
            connection.is_closed = True
