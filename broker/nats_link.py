"""A connection to NATS that is always there again: replaced when it ends, and calls repeated across that."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import structlog

from broker import backoff
from broker.concurrency import task_group
from broker.errors import BrokerError, Disconnected
from broker.nats_connection import Connection
from broker.url import BrokerUrl

T = TypeVar("T")

CALL_S: Final = 30.0
"""Whatever a caller wants of the broker is done by then, or has failed. A server that crashed is back before."""

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

_log = structlog.get_logger(__name__)
_random = random.SystemRandom()


@contextlib.asynccontextmanager
async def opened(address: BrokerUrl, name: str) -> AsyncIterator["Link"]:
    """A link that is up when it is entered.

    Raises:
        ConnectFailed: nobody answers there, or refuses us. Only the first connection is that impatient.
    """
    first = Connection(address, name)
    await first.open()
    link = Link(first, name)
    try:
        async with task_group() as group:
            supervisor = group.create_task(link.supervise(), name=f"nats supervisor of {name}")
            yield link
            supervisor.cancel()
    finally:
        await link.close()


class Link:
    """The current connection, and patience."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._up = asyncio.Event()
        self._up.set()
        self._reason = ""

    @property
    def max_message_bytes(self) -> int:
        """The largest payload that goes into one message."""
        return self._connection.max_message_bytes

    async def connection(self) -> Connection:
        """The current connection, as soon as there is one."""
        await self._up.wait()
        return self._connection

    async def persist(self, attempt: Callable[[Connection], Awaitable[T]]) -> T:
        """Try something until it works; it must be harmless to do twice.

        Raises:
            Disconnected: it did not work in time.
            BrokerError: whatever else the attempt raised.
        """
        deadline = asyncio.get_running_loop().time() + CALL_S
        for tries in itertools.count():
            connection = await self._connection_by(deadline)
            try:
                return await attempt(connection)
            except Disconnected as exc:
                pause_s = pause(tries)
                if asyncio.get_running_loop().time() + pause_s > deadline:
                    raise
                _log.debug("trying again", error=str(exc), attempt=tries + 1, pause_s=round(pause_s, 3))
            await asyncio.sleep(pause_s)
        raise AssertionError  # itertools.count() never ends

    async def api(self, topic: str, subject: str, request: object, response: type[T]) -> T:
        """Ask JetStream something in JSON, until it answers.

        Raises:
            BrokerError: what the answer says is wrong, about `topic`.
        """
        return await self.persist(lambda connection: connection.api(topic, subject, request, response))

    async def send(self, subject: str, payload: bytes) -> None:
        """Send what may as well get lost, such as an acknowledgement: without it, the event just comes again."""
        try:
            await self._connection.send(subject, payload)
        except Disconnected as exc:
            _log.debug("not sent", subject=subject, error=str(exc))

    async def supervise(self) -> None:
        """Open another connection whenever the current one ends."""
        while True:
            await self._connection.lost.wait()
            self._up.clear()
            _log.warning("connection lost", address=self._connection.address.address)
            await self._connection.close()
            await self._reopen()
            self._up.set()
            _log.info("connected again", address=self._connection.address.address)

    async def close(self) -> None:
        """End the current connection."""
        await self._connection.close()

    async def _reopen(self) -> None:
        for tries in itertools.count():
            fresh = Connection(self._connection.address, self._name)
            try:
                await fresh.open()
            except BrokerError as exc:
                # Refused credentials too: a password file may be renewed while the server is away.
                self._reason = str(exc)
                _log.debug("can't connect", error=self._reason, attempt=tries + 1)
                await asyncio.sleep(pause(tries))
            else:
                self._connection = fresh
                return

    async def _connection_by(self, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                return await self.connection()
        except TimeoutError as exc:
            raise Disconnected(f"no connection for {CALL_S} s: {self._reason}") from exc


def pause(tries: int) -> float:
    """How long to wait before trying again, seconds."""
    return backoff.delay_s(tries, _random.uniform, first_s=FIRST_PAUSE_S, most_s=LONGEST_PAUSE_S)
