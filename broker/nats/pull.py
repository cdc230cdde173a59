"""Receives from a JetStream consumer. A pull request is always open, so that messages arrive without delay.

nats-py's `fetch` waits until a batch is full or times out, and does not notice when the consumer is gone. Here the
server sends a heartbeat while there are no messages; without heartbeats the consumer is set up again.
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
from nats.aio.msg import Msg

from broker.errors import Disconnected, StoreChanged
from broker.nats.connection import Connection
from broker.nats.link import Link
from broker.reconnect import CALL_S, pause
from broker.support import loggers
from broker.support.tasks import task_group

HEARTBEAT_S: Final = 5.0
CLUSTER_HEARTBEAT_S: Final = 2.0
"""In a cluster, where the node that serves the consumer may die while our connection to another node goes on."""

HEARTBEATS_MISSING: Final = 2.5
EXPIRES_S: Final = 60.0
AHEAD_BYTES: Final = 8 << 20
"""Bytes that one subscriber has on the way and in use, if its messages are as large as the last one. More would be no
faster; nats-server closes a connection with 64 MB of unsent data."""

LARGEST_BYTES: Final = 9 << 20
"""Minimum of `max_bytes` in a pull request, so that the largest message fits."""

_NS: Final = 1_000_000_000
_REQUEST_DONE: Final = ("Batch Completed", "Message Size Exceeds MaxBytes")
_ACK_TOKENS: Final = 9  # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>

_log = loggers.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message from a consumer, with JetStream's metadata.

    Attributes:
        message: the message.
        sequence: position in the stream.
        consumer_sequence: number of the delivery by this consumer, from 1.
        attempt: number of deliveries of this message, from 1.
        time_s: when it was stored. Seconds since the epoch.
        pending: number of messages that the consumer has not delivered yet.
    """

    message: Msg
    sequence: int
    consumer_sequence: int
    attempt: int
    time_s: float
    pending: int


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer that exists on the server.

    Attributes:
        stream: name of its stream.
        next_subject: subject for pull requests.
        pending: number of messages to read; -1 if unknown.
        ack_wait_s: time in seconds after which an unacknowledged delivery is made again; infinite without
            acknowledgements.
    """

    stream: str
    next_subject: str
    pending: int = -1
    ack_wait_s: float = math.inf


class Source(Protocol):
    """A description of the consumer that a feed reads."""

    def open(self, connection: Connection) -> AbstractAsyncContextManager[Consumer]:
        """Create the consumer if necessary, and clean up at the end; the feed calls this on every new connection."""

    def accept(self, arrival: Arrival) -> bool:
        """Record a message; return False if a message before it is missing."""


@dataclass(slots=True)
class _Session:
    """The state of one consumer on one connection.

    Attributes:
        consumer: the consumer.
        heartbeat_s: how often the server sends something while a pull request is open, in seconds.
        last_heard_s: when the server sent something last, or we sent a request. Seconds, loop time.
        outstanding: number of messages requested and not received.
        end_reason: why the session ended; empty while it runs.
    """

    consumer: Consumer
    heartbeat_s: float
    last_heard_s: float
    outstanding: int = 0
    end_reason: str = ""


class Feed:
    """The messages of one subscriber, across reconnections.

    A message is in use from its arrival until `release`, or until its `ack_wait` ends.

    Args:
        link: the link to the server.
        source: the consumer to read.
        prefetch: maximum number of messages in use.
        name: name of the subscription in logs.
    """

    def __init__(self, link: Link, source: Source, *, prefetch: int, name: str) -> None:
        self._link = link
        self._source = source
        self._prefetch = prefetch
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[Arrival] = deque()
        self._in_use: dict[int, float] = {}  # by sequence: when `ack_wait` ends, loop time
        self._ack_wait_s = math.inf
        self._pending = -1
        self._last_bytes = 1
        self._is_open = False
        self._has_heard = False  # from the server, in this session
        self._changed = asyncio.Event()  # wakes the task that sends pull requests
        self._arrived = asyncio.Event()  # wakes the subscriber

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Receive messages during the block; the consumer exists when the block begins.

        Raises:
            Denied: this user may not read the topic.
            Disconnected: the consumer was not ready within CALL_S seconds.
            StoreChanged: the stream is shorter than before, or missing.
        """
        async with task_group() as group:
            pump = group.create_task(self._run(), name=f"nats pull of {self._name}")
            try:
                async with asyncio.timeout(CALL_S):
                    await self._wait_until(lambda: self._is_open)
            except TimeoutError as exc:
                raise Disconnected(f"{self._name}: no consumer after {CALL_S} s") from exc
            yield self
            pump.cancel()

    async def next(self) -> Arrival:
        """Return the next message; wait until there is one."""
        while True:
            await self._wait_until(lambda: bool(self._buffer))
            if arrival := self._pop():
                return arrival

    async def next_pending(self) -> Arrival | None:
        """Return the next message, or None after the last message in the stream."""
        await self._wait_until(lambda: bool(self._buffer) or self._pending == 0)
        return self._pop() if self._buffer else None

    def release(self, sequence: int) -> None:
        """Mark a message as no longer in use, which makes room for another one."""
        self._in_use.pop(sequence, None)
        self._changed.set()

    def extend(self, sequence: int) -> None:
        """Restart the `ack_wait` of a message."""
        if sequence in self._in_use:
            self._in_use[sequence] = self._loop.time() + self._ack_wait_s

    def drain(self) -> Iterator[Arrival]:
        """Remove and yield the messages that `next` has not returned."""
        while self._buffer:
            yield self._buffer.popleft()

    def _pop(self) -> Arrival | None:
        """Remove the oldest message from the buffer; return None if its `ack_wait` has ended."""
        arrival = self._buffer.popleft()
        if self._in_use.get(arrival.sequence, 0.0) <= self._loop.time():
            return None
        if self._ack_wait_s == math.inf:
            self.release(arrival.sequence)
        return arrival

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._arrived.clear()
            await self._arrived.wait()

    async def _run(self) -> None:
        """Read from one connection after another, with a backoff while the server is silent."""
        failures = 0
        while True:
            connection = await self._link.connection()
            self._has_heard = False
            try:
                await self._read(connection)
            except StoreChanged as exc:
                raise self._link.end(exc) from exc.__cause__
            except Disconnected as exc:
                _log.debug("the subscription starts again", subscription=self._name, error=str(exc))
            failures = 0 if self._has_heard else failures + 1
            await asyncio.sleep(pause(failures))

    async def _read(self, connection: Connection) -> None:
        """Receive until the connection or the consumer is lost."""
        inbox = connection.new_inbox()
        async with self._source.open(connection) as consumer:
            heartbeat_s = CLUSTER_HEARTBEAT_S if connection.is_clustered else HEARTBEAT_S
            session = _Session(consumer, heartbeat_s, self._loop.time())
            self._ack_wait_s = consumer.ack_wait_s
            self._is_open, self._pending = True, consumer.pending
            self._arrived.set()
            with connection.watch(inbox, consumer.next_subject) as failure:
                failure.add_done_callback(lambda _: self._changed.set())
                async with connection.listen(inbox, functools.partial(self._receive, session)):
                    await self._request_messages(connection, session, inbox, failure)

    async def _request_messages(
        self, connection: Connection, session: _Session, inbox: str, failure: asyncio.Future[Msg]
    ) -> None:
        """Keep a pull request open until the session ends."""
        while not session.end_reason:
            self._changed.clear()
            if failure.done():
                failure.result()
            if batch := self._next_batch(session):
                session.outstanding += batch
                session.last_heard_s = self._loop.time()
                most_bytes = max(AHEAD_BYTES * batch // self._prefetch, LARGEST_BYTES)
                request = _PullRequest(batch, most_bytes, int(session.heartbeat_s * _NS))
                await connection.send(session.consumer.next_subject, msgspec.json.encode(request), reply=inbox)
            if not await self._wait_for_change(session):
                # On a slow link the heartbeat may wait behind other data, and then so does our own message.
                await connection.round_trip()
                if self._is_silent(session):
                    raise Disconnected(f"no heartbeat of the consumer for {HEARTBEATS_MISSING * session.heartbeat_s} s")
        raise Disconnected(session.end_reason)

    async def _wait_for_change(self, session: _Session) -> bool:
        """Wait for a change or for the end of an `ack_wait`; return False if the consumer has been silent too long."""
        if session.outstanding:
            until_s = session.last_heard_s + HEARTBEATS_MISSING * session.heartbeat_s
        else:
            until_s = min(self._in_use.values(), default=math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(None if until_s == math.inf else until_s):
                await self._changed.wait()
        return not self._is_silent(session)

    def _is_silent(self, session: _Session) -> bool:
        silent_s = self._loop.time() - session.last_heard_s
        return session.outstanding > 0 and silent_s >= HEARTBEATS_MISSING * session.heartbeat_s

    def _next_batch(self, session: _Session) -> int:
        """Return the number of messages to request now; 0 while half of the possible ones are, to save requests."""
        now_s = self._loop.time()
        for sequence in [sequence for sequence, end_s in self._in_use.items() if end_s <= now_s]:
            del self._in_use[sequence]
        most = min(self._prefetch, max(1, AHEAD_BYTES // self._last_bytes))
        if session.outstanding > most // 2:
            return 0
        return max(0, most - session.outstanding - len(self._in_use))

    async def _receive(self, session: _Session, message: Msg) -> None:
        session.last_heard_s = self._loop.time()
        if message.reply:
            self._deliver(session, arrival_of(message))
        else:
            self._handle_status(session, message)
        self._changed.set()

    def _deliver(self, session: _Session, arrival: Arrival) -> None:
        """Put a message into the buffer; end the session if a message before it is missing."""
        session.outstanding = max(0, session.outstanding - 1)
        if session.end_reason or not self._source.accept(arrival):
            session.end_reason = session.end_reason or "a message is missing"
            return
        if arrival.attempt > 1:
            # An earlier delivery may still be in the buffer.
            self._buffer = deque(other for other in self._buffer if other.sequence != arrival.sequence)
        self._has_heard = True
        self._link.seen.note(session.consumer.stream, arrival.sequence)
        self._in_use[arrival.sequence] = self._loop.time() + self._ack_wait_s
        self._pending = arrival.pending
        self._last_bytes = max(1, len(arrival.message.data))
        self._buffer.append(arrival)
        self._arrived.set()

    def _handle_status(self, session: _Session, message: Msg) -> None:
        """Handle a heartbeat, the end of a pull request, or an error of the consumer."""
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "").strip()
        if status == "100":  # heartbeat
            self._has_heard = True
        elif status in ("404", "408") or description in _REQUEST_DONE:
            unsent = int(headers.get("Nats-Pending-Messages", "0"))
            session.outstanding = max(0, session.outstanding - unsent)
        else:
            session.end_reason = f"{session.consumer.next_subject}: {status} {description}"


class _PullRequest(msgspec.Struct):
    batch: int
    max_bytes: int
    idle_heartbeat: int
    expires: int = int(EXPIRES_S * _NS)


def arrival_of(message: Msg) -> Arrival:
    """Parse the metadata in a message's reply subject."""
    tokens = message.reply.split(".")
    # Newer servers insert domain and account: `$JS.ACK.<domain>.<account>.<stream>...`
    first = 4 if len(tokens) == _ACK_TOKENS else 6
    attempt, sequence, consumer_sequence, time_ns, pending = (int(token) for token in tokens[first : first + 5])
    return Arrival(message, sequence, consumer_sequence, attempt, time_ns / _NS, pending)
