"""Keeps a connection to a broker: replaces it when it ends, and retries calls until one succeeds."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from broker.errors import BrokerError, Disconnected, StoreChanged
from broker.support import backoff, loggers
from broker.support.tasks import task_group
from broker.url import BrokerUrl

T = TypeVar("T")

CALL_S: Final = 30.0
"""Time limit of every call, seconds. A broker that crashed restarts within this time."""

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

_log = loggers.get_logger(__name__)
_random = random.SystemRandom()


class Connection(Protocol):
    """One connection, used until it ends and never reopened.

    Attributes:
        address: the broker's address.
        lost: set when the connection has ended.
        max_message_bytes: size of the largest payload of one message.
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
            ConnectFailed: the broker can't be reached, or refuses the connection.
        """

    async def close(self) -> None:
        """Close the connection."""


C = TypeVar("C", bound=Connection)


class Link(Generic[C]):
    """Holds the current connection, replaces it when it is lost, and retries calls for up to CALL_S seconds.

    Args:
        make_connection: returns a new connection that is not open.

    Attributes:
        connected_since_s: when the newest connection was opened, in seconds of the event loop's clock.
    """

    def __init__(self, make_connection: Callable[[], C]) -> None:
        self.connected_since_s = 0.0
        self._make_connection = make_connection
        self._connection = make_connection()
        self._connected = asyncio.Event()
        self._connect_error = ""
        self._ended = asyncio.Event()
        self._ended_by: StoreChanged | None = None

    @property
    def address(self) -> BrokerUrl:
        """The broker's address."""
        return self._connection.address

    @property
    def max_message_bytes(self) -> int:
        """Size of the largest payload of one message."""
        return self._connection.max_message_bytes

    @property
    def has_ended(self) -> bool:
        """Whether the store has changed, so that there will be no more connection."""
        return self._ended_by is not None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now, or never again."""
        return self._connected.is_set()

    async def connection(self) -> C:
        """Return the current connection; wait while there is none.

        Raises:
            StoreChanged: the link has ended.
        """
        await self._connected.wait()
        if self._ended_by is not None:
            raise self._ended_by
        return self._connection

    def end(self, error: StoreChanged) -> StoreChanged:
        """End the link, because the store has changed: its block and all calls raise the error, now and later.

        Returns:
            The error to raise: the first one.
        """
        self._ended_by = self._ended_by or error
        self._connected.set()
        self._ended.set()
        return self._ended_by

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep a connection open during the block.

        Raises:
            ConnectFailed: the first connection failed. Later ones are retried without limit.
            StoreChanged: the broker has another store than before. It ends the block.
        """
        await self._connection.open()
        self._mark_connected()
        try:
            async with task_group() as group:
                supervisor = group.create_task(self._supervise(), name=f"link to {self.address.address}")
                end = group.create_task(self._raise_end(), name=f"end of the link to {self.address.address}")
                yield
                supervisor.cancel()
                end.cancel()
        finally:
            await self._connection.close()

    async def retry(self, attempt: Callable[[C], Awaitable[T]]) -> T:
        """Call `attempt` with a connection until it succeeds, and return its result.

        Args:
            attempt: takes the current connection. It must be safe to run more than once.

        Raises:
            Disconnected: no attempt succeeded within CALL_S seconds.
            StoreChanged: the link has ended.
            BrokerError: any other error of the attempt; it is not retried.
        """
        deadline, failures = asyncio.get_running_loop().time() + CALL_S, list[Disconnected]()
        for tries in itertools.count():
            try:
                async with asyncio.timeout_at(deadline):
                    connection = await self.connection()
            except TimeoutError as exc:
                raise Disconnected(f"no connection for {CALL_S} s: {self._connect_error}") from exc
            try:
                return await attempt(connection)
            except StoreChanged as exc:
                raise self.end(exc) from exc.__cause__
            except Disconnected as exc:
                failures.append(exc)
                self.raise_if_permanent(failures)
                pause_s = pause(tries)
                if asyncio.get_running_loop().time() + pause_s > deadline:
                    raise
                _log.debug("retrying", error=str(exc), attempt=tries + 1, pause_s=round(pause_s, 3))
            await asyncio.sleep(pause_s)
        raise AssertionError  # itertools.count() never ends

    def raise_if_permanent(self, failures: list[Disconnected]) -> None:
        """Raise an error if these failures show that a retry cannot succeed; subclasses override this."""

    async def check_store(self, connection: C) -> None:
        """Check on each new connection that the broker still has the store that we knew; subclasses override this.

        Args:
            connection: the new connection, which is open; nothing else uses it yet.

        Raises:
            StoreChanged: the store is older, was emptied, or is another one.
            Disconnected: the check was not possible; it is made again on another connection.
        """

    async def _supervise(self) -> None:
        """Open a new connection whenever the current one ends."""
        while True:
            await self._connection.lost.wait()
            self._connected.clear()
            _log.warning("connection lost", address=self.address.address)
            await self._connection.close()
            try:
                self._connection = await self._open_next()
            except StoreChanged as exc:
                self.end(exc)
                return
            self._mark_connected()
            _log.info("connected again", address=self.address.address)

    async def _raise_end(self) -> None:
        """Raise the error of `end` into the block of `running`."""
        await self._ended.wait()
        await self.connection()

    def _mark_connected(self) -> None:
        self.connected_since_s = asyncio.get_running_loop().time()
        self._connected.set()

    async def _open_next(self) -> C:
        """Try to open a new connection until it succeeds."""
        for tries in itertools.count():
            connection = self._make_connection()
            try:
                await self._open_checked(connection)
            except StoreChanged:
                raise
            except BrokerError as exc:
                # Refused credentials are retried too: the password file may change while the broker is offline.
                self._connect_error = str(exc)
                _log.debug("can't connect", error=self._connect_error, attempt=tries + 1)
                await asyncio.sleep(pause(tries))
            else:
                return connection
        raise AssertionError  # itertools.count() never ends

    async def _open_checked(self, connection: C) -> None:
        await connection.open()
        try:
            await self.check_store(connection)
        except BaseException:
            await connection.close()
            raise


def pause(tries: int) -> float:
    """Return the time to wait before the next try, in seconds; `tries` counts the earlier ones."""
    return backoff.delay_s(tries, _random.uniform, first_s=FIRST_PAUSE_S, most_s=LONGEST_PAUSE_S)
