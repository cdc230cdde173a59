"""A connection that is always there again: replaced when it ends, and calls repeated across that."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

import structlog

from broker.errors import BrokerError, Disconnected
from broker.support import backoff
from broker.support.tasks import task_group
from broker.url import BrokerUrl

T = TypeVar("T")

CALL_S: Final = 30.0
"""Whatever a caller wants of the broker is done by then, or has failed. A broker that crashed is back before."""

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

_log = structlog.get_logger(__name__)
_random = random.SystemRandom()


class Connection(Protocol):
    """One connection, that is used until it ends.

    Attributes:
        address: of the broker.
        lost: set when the connection has ended.
    """

    @property
    def address(self) -> BrokerUrl: ...  # noqa: D102 (see the class)

    @property
    def lost(self) -> asyncio.Event: ...  # noqa: D102

    @property
    def max_message_bytes(self) -> int: ...  # noqa: D102

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectFailed: nobody answers there, or refuses us.
        """

    async def close(self) -> None:
        """End it."""


C = TypeVar("C", bound=Connection)


class Link(Generic[C]):
    """The current connection, and patience.

    Args:
        another: makes a connection that is yet to be opened.
    """

    def __init__(self, another: Callable[[], C]) -> None:
        self._another = another
        self._connection = another()
        self._up = asyncio.Event()
        self._reason = ""

    @property
    def address(self) -> BrokerUrl:
        """Where the broker is."""
        return self._connection.address

    @property
    def max_message_bytes(self) -> int:
        """The largest payload that goes into one message."""
        return self._connection.max_message_bytes

    async def connection(self) -> C:
        """The current connection, as soon as there is one."""
        await self._up.wait()
        return self._connection

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be up from the start to the end of the block.

        Raises:
            ConnectFailed: nobody answers there, or refuses us. Only the first connection is that impatient.
        """
        await self._connection.open()
        self._up.set()
        try:
            async with task_group() as group:
                supervisor = group.create_task(self._supervise(), name=f"link to {self.address.address}")
                yield
                supervisor.cancel()
        finally:
            await self._connection.close()

    async def persist(self, attempt: Callable[[C], Awaitable[T]]) -> T:
        """Try something until it works; it must be harmless to do twice.

        Raises:
            Disconnected: it did not work in time.
            BrokerError: whatever else the attempt raised.
        """
        deadline, failures = asyncio.get_running_loop().time() + CALL_S, list[Disconnected]()
        for tries in itertools.count():
            connection = await self._connection_by(deadline)
            try:
                return await attempt(connection)
            except Disconnected as exc:
                failures.append(exc)
                self.reconsider(failures)
                pause_s = pause(tries)
                if asyncio.get_running_loop().time() + pause_s > deadline:
                    raise
                _log.debug("trying again", error=str(exc), attempt=tries + 1, pause_s=round(pause_s, 3))
            await asyncio.sleep(pause_s)
        raise AssertionError  # itertools.count() never ends

    def reconsider(self, failures: list[Disconnected]) -> None:
        """Called after each failure of one attempt; may raise what they mean together."""

    async def _supervise(self) -> None:
        """Open another connection whenever the current one ends."""
        while True:
            await self._connection.lost.wait()
            self._up.clear()
            _log.warning("connection lost", address=self.address.address)
            await self._connection.close()
            await self._reopen()
            self._up.set()
            _log.info("connected again", address=self.address.address)

    async def _reopen(self) -> None:
        for tries in itertools.count():
            fresh = self._another()
            try:
                await fresh.open()
            except BrokerError as exc:
                # Refused credentials too: a password file may be renewed while the broker is away.
                self._reason = str(exc)
                _log.debug("can't connect", error=self._reason, attempt=tries + 1)
                await asyncio.sleep(pause(tries))
            else:
                self._connection = fresh
                return

    async def _connection_by(self, deadline: float) -> C:
        try:
            async with asyncio.timeout_at(deadline):
                return await self.connection()
        except TimeoutError as exc:
            raise Disconnected(f"no connection for {CALL_S} s: {self._reason}") from exc


def pause(tries: int) -> float:
    """How long to wait before trying again, seconds."""
    return backoff.delay_s(tries, _random.uniform, first_s=FIRST_PAUSE_S, most_s=LONGEST_PAUSE_S)
