"""Receiving from a JetStream consumer: a pull request is always under way, so that a message comes when it is there.

nats-py's `fetch` waits until a batch is full or its time is over, and takes the loss of a consumer for silence. Here
the server sends a heartbeat while there is nothing to send; without it everything is set up anew.
"""

import asyncio
import contextlib
import functools
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol, Self

import msgspec
import structlog
from nats.aio.msg import Msg

from broker.errors import Disconnected
from broker.nats.connection import Connection
from broker.nats.link import Link
from broker.reconnect import CALL_S, pause
from broker.support.tasks import task_group

HEARTBEAT_S: Final = 5.0
SILENCE_S: Final = 2.5 * HEARTBEAT_S
EXPIRES_S: Final = 60.0
REQUESTED_BYTES: Final = 32 << 20
"""Asked for at once by one subscriber; a server cuts a connection that has 64 MB to send."""

LARGEST_BYTES: Final = 9 << 20
"""A request for less than the largest message would never get it."""

_NS: Final = 1_000_000_000
_REQUEST_DONE: Final = ("Batch Completed", "Message Size Exceeds MaxBytes")
_ACK_TOKENS: Final = 9  # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message from a consumer, with what JetStream says about it."""

    message: Msg
    sequence: int
    consumer_sequence: int
    attempt: int
    time_s: float
    pending: int


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer that is there.

    Attributes:
        next_subject: where to ask it for messages.
        pending: how many wait to be read; -1 if that is not known.
        ack_wait_s: how long a delivery may stay unacknowledged; infinite where nothing is acknowledged.
    """

    next_subject: str
    pending: int = -1
    ack_wait_s: float = math.inf


class Source(Protocol):
    """Where a feed gets its messages from."""

    def opened(self, connection: Connection) -> AbstractAsyncContextManager[Consumer]:
        """Make sure that the consumer is there, on every new connection; and clean up after it."""

    def accept(self, arrival: Arrival) -> bool:
        """Take note of a message; False if one is missing before it."""


@dataclass(slots=True)
class _Session:
    """One consumer on one connection."""

    consumer: Consumer
    heard_s: float
    outstanding: int = 0  # messages asked for and not yet sent
    ended: str = ""


class Feed:
    """What one subscriber receives, over however many connections.

    Args:
        link: where from.
        source: the consumer to read.
        prefetch: how many messages to hold at once, at the most; one is held until it is released.
        name: for logs.
    """

    def __init__(self, link: Link, source: Source, *, prefetch: int, name: str) -> None:
        self._link = link
        self._source = source
        self._prefetch = prefetch
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[Arrival] = deque()
        self._held: dict[int, float] = {}  # sequence: when it is ours no longer
        self._ack_wait_s = math.inf
        self._pending = -1
        self._opened = False
        self._answering = False
        self._changed = asyncio.Event()  # for the pump
        self._arrived = asyncio.Event()  # for the reader

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Receive; the consumer is there when this is entered.

        Raises:
            Denied: we may not read that.
            Disconnected: the server did not get it done in time.
        """
        async with task_group() as group:
            pump = group.create_task(self._run(), name=f"nats pull of {self._name}")
            try:
                async with asyncio.timeout(CALL_S):
                    await self._until(lambda: self._opened)
            except TimeoutError as exc:
                raise Disconnected(f"{self._name}: no consumer after {CALL_S} s") from exc
            yield self
            pump.cancel()

    async def next(self) -> Arrival:
        """The next message, as soon as it is there."""
        while True:
            await self._until(lambda: bool(self._buffer))
            if arrival := self._taken():
                return arrival

    async def next_pending(self) -> Arrival | None:
        """The next message, or None once everything is read that is there now."""
        await self._until(lambda: bool(self._buffer) or self._pending == 0)
        return self._taken() if self._buffer else None

    def release(self, sequence: int) -> None:
        """That message is held no longer: there is room for another one."""
        self._held.pop(sequence, None)
        self._changed.set()

    def extend(self, sequence: int) -> None:
        """That message is held for another `ack_wait`."""
        if sequence in self._held:
            self._held[sequence] = self._loop.time() + self._ack_wait_s

    def abandoned(self) -> Iterator[Arrival]:
        """The messages that nobody took."""
        while self._buffer:
            yield self._buffer.popleft()

    def _taken(self) -> Arrival | None:
        """The oldest message in the buffer, unless it lay there for so long that it is delivered again."""
        arrival = self._buffer.popleft()
        if self._held.get(arrival.sequence, 0.0) <= self._loop.time():
            return None
        if self._ack_wait_s == math.inf:
            self.release(arrival.sequence)
        return arrival

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._arrived.clear()
            await self._arrived.wait()

    async def _run(self) -> None:
        failures = 0
        while True:
            connection = await self._link.connection()
            self._answering = False
            try:
                await self._read(connection)
            except Disconnected as exc:
                _log.debug("receiving anew", subscription=self._name, error=str(exc))
            failures = 0 if self._answering else failures + 1
            await asyncio.sleep(pause(failures))

    async def _read(self, connection: Connection) -> None:
        """Receive until the connection or the consumer is gone."""
        inbox = connection.new_inbox()
        async with self._source.opened(connection) as consumer:
            session = _Session(consumer, self._loop.time())
            self._ack_wait_s = consumer.ack_wait_s
            self._opened, self._pending = True, consumer.pending
            self._arrived.set()
            with connection.trouble(inbox, consumer.next_subject) as trouble:
                trouble.add_done_callback(lambda _: self._changed.set())
                async with connection.listening(inbox, functools.partial(self._receive, session)):
                    await self._pump(connection, session, inbox, trouble)

    async def _pump(self, connection: Connection, session: _Session, inbox: str, trouble: asyncio.Future[Msg]) -> None:
        while not session.ended:
            self._changed.clear()
            if trouble.done():
                trouble.result()
            if room := self._room(session):
                session.outstanding += room
                session.heard_s = self._loop.time()
                await connection.send(session.consumer.next_subject, _pull(room, self._prefetch), reply=inbox)
            await self._change(session)
        raise Disconnected(session.ended)

    async def _change(self, session: _Session) -> None:
        """Wait for news, for a held message to become overdue, or for the server to be silent for too long."""
        until_s = session.heard_s + SILENCE_S if session.outstanding else min(self._held.values(), default=math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(None if until_s == math.inf else until_s):
                await self._changed.wait()
            return
        if session.outstanding:
            raise Disconnected(f"no heartbeat of the consumer for {SILENCE_S} s")

    def _room(self, session: _Session) -> int:
        """How many messages to ask for now; by halves, as every request costs the server something."""
        now_s = self._loop.time()
        for sequence in [sequence for sequence, due_s in self._held.items() if due_s <= now_s]:
            del self._held[sequence]
        if session.outstanding > self._prefetch // 2:
            return 0
        return max(0, self._prefetch - session.outstanding - len(self._held))

    async def _receive(self, session: _Session, message: Msg) -> None:
        session.heard_s = self._loop.time()
        if not message.reply:
            self._status(session, message)
        else:
            self._deliver(session, arrival_of(message))
        self._changed.set()

    def _deliver(self, session: _Session, arrival: Arrival) -> None:
        session.outstanding = max(0, session.outstanding - 1)
        if session.ended or not self._source.accept(arrival):
            session.ended = session.ended or "a message is missing"
            return
        if arrival.attempt > 1:  # an earlier copy may lie in the buffer still
            self._buffer = deque(other for other in self._buffer if other.sequence != arrival.sequence)
        self._answering = True
        self._held[arrival.sequence] = self._loop.time() + self._ack_wait_s
        self._pending = arrival.pending
        self._buffer.append(arrival)
        self._arrived.set()

    def _status(self, session: _Session, message: Msg) -> None:
        """What the server says instead of sending a message."""
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "").strip()
        if status == "100":  # heartbeat
            self._answering = True
        elif status in ("404", "408") or description in _REQUEST_DONE:
            unsent = int(headers.get("Nats-Pending-Messages", "0"))
            session.outstanding = max(0, session.outstanding - unsent)
        else:
            session.ended = f"{session.consumer.next_subject}: {status} {description}"


class _PullRequest(msgspec.Struct):
    batch: int
    max_bytes: int
    expires: int = int(EXPIRES_S * _NS)
    idle_heartbeat: int = int(HEARTBEAT_S * _NS)


def _pull(batch: int, prefetch: int) -> bytes:
    share = max(REQUESTED_BYTES * batch // prefetch, LARGEST_BYTES)
    return msgspec.json.encode(_PullRequest(batch, share))


def arrival_of(message: Msg) -> Arrival:
    """A message with what its reply subject says about it."""
    tokens = message.reply.split(".")
    # Newer servers put domain and account in front: `$JS.ACK.<domain>.<account>.<stream>...`
    first = 4 if len(tokens) == _ACK_TOKENS else 6
    attempt, sequence, consumer_sequence, time_ns, pending = (int(token) for token in tokens[first : first + 5])
    return Arrival(message, sequence, consumer_sequence, attempt, time_ns / _NS, pending)
