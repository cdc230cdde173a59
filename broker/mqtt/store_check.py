"""Finds out on a new connection whether the broker still has the store that we knew.

Mosquitto acknowledges messages before it writes its store, so a crash takes it back to an earlier state. Each program
therefore retains a counter, and increases it after its writes. The broker keeps the order of one client's messages: a
store with the counter's last number has all writes before it. The mark's id tells whether it is the same store at all.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from broker.errors import BrokerError, Denied, StoreChanged
from broker.mqtt import storage
from broker.mqtt.storage import Mark
from broker.support import loggers

T = TypeVar("T")

EXPIRES_S: Final = 7 * 86_400.0
"""A program that was killed leaves its counter; with MQTT 5, the broker deletes it after this time."""

TRUSTED_S: Final = EXPIRES_S / 2
"""A counter that was not increased for this time is not asked for. No broker writes its store as late as that."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
PAUSE_FACTOR: Final = 10
"""The counter takes at most a tenth of the time: a broker that writes its store at every change is slow."""

LATE_S: Final = 2.0
"""nats-server shows a retained message only a moment after its acknowledgement. Seconds."""

_LATE_TRIES: Final = 10

_ANOTHER: Final = "another store is behind this address now"

_log = loggers.get_logger(__name__)


class Connection(Protocol):
    """A connection to the broker.

    Attributes:
        counter_topic: MQTT topic of this connection's counter.
    """

    counter_topic: str

    async def fetch(self, *filters: str) -> dict[str, bytes]:
        """Return the payloads of the retained messages under MQTT filters, by MQTT topic."""

    async def publish(self, topic: str, payload: bytes, *, expires_s: float = 0.0) -> None:
        """Retain a message."""


class Count(msgspec.Struct, frozen=True):
    """The content of a counter.

    Attributes:
        number: increases with every message.
        time_s: when it was written, in seconds since the epoch on the writer's clock.
    """

    number: int
    time_s: float


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a store, or found in it.

    Attributes:
        mark: its mark; None: it has none, or we may not read it.
        count: the newest count of ours that it has acknowledged; None: there is none.
        has_last: whether it has what we wrote last, after that count.
    """

    mark: Mark | None = None
    count: Count | None = None
    has_last: bool = True


def change(knew: Known, found: Known) -> str:
    """Return what has changed in a store, for a person; empty: nothing that we know.

    Args:
        knew: what the store has had.
        found: what it has now.
    """
    if knew.mark is not None and found.mark is None:
        return (
            "it was emptied, and what was in it is gone. A broker that shall keep its messages when it ends needs "
            "`persistence true` (docs/mqtt.md)"
        )
    is_same = knew.mark is None or found.mark is None or knew.mark.id == found.mark.id
    has_count = knew.count is None or (found.count is not None and found.count.number >= knew.count.number)
    if has_count and found.has_last and (is_same or knew.count is not None):
        return ""
    if not is_same:
        return _ANOTHER
    if has_count:
        lost = "what we wrote last is gone"
    elif knew.count is None or found.count is None:
        lost = "what we wrote is gone"
    else:
        lost = f"the last {max(knew.count.time_s - found.count.time_s, 0.1):.1f} s of what we wrote are gone"
    return f"it is older: {lost}. Mosquitto acknowledges before it stores (autosave in docs/mqtt.md)"


class StoreCheck:
    """Counts our writes at the broker, and compares the store of each new connection with what we know.

    Args:
        address: the broker's address, for errors.

    Attributes:
        mark: the store's mark; None: unknown.
    """

    def __init__(self, address: str) -> None:
        self.mark: Mark | None = None
        self._address = address
        self._topic = ""
        self._retained: set[str] = set()
        self._count: Count | None = None
        self._counted_s = 0.0
        self._last: tuple[str, int] | None = None
        self._is_noted = asyncio.Event()

    def note(self) -> None:
        """Count a write, or a message that we have seen, soon."""
        self._is_noted.set()

    def note_last(self, topic: str, revision: int = 0) -> None:
        """Remember a message that nobody else deletes soon, until the counter covers it.

        Args:
            topic: MQTT topic of the retained message.
            revision: of a value: only a later one may have replaced it.
        """
        self._last = topic, revision

    def forget_last(self) -> None:
        """Forget that message, because it may have been deleted."""
        self._last = None

    async def run(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Increase the counter after writes, until cancelled, or until we find out that this user can't do that.

        Args:
            connect: returns the current connection; waits while there is none.
        """
        loop = asyncio.get_running_loop()
        for number in itertools.count(1):
            await self._is_noted.wait()
            self._is_noted.clear()
            connection, started_s = await connect(), loop.time()
            try:
                if not await self._increase(connection, Count(number, time.time())):
                    return
            except Denied:
                _log.debug("this user may not count its writes", topic=connection.counter_topic)
                return
            except BrokerError as exc:
                _log.debug("not counted", error=str(exc))
                self._is_noted.set()
            await asyncio.sleep(min(max(FIRST_PAUSE_S, PAUSE_FACTOR * (loop.time() - started_s)), LONGEST_PAUSE_S))

    async def check(self, connection: Connection, *, is_late: bool) -> None:
        """Compare the store of a new connection with what we know.

        Args:
            connection: the new connection.
            is_late: whether this broker shows retained messages a moment after their acknowledgement.

        Raises:
            StoreChanged: the store is older, was emptied, or is another one.
            Disconnected: the connection ended.
        """
        is_trusted = asyncio.get_running_loop().time() - self._counted_s < TRUSTED_S
        knew = Known(self.mark, self._count if is_trusted else None)
        reason, found = "", Known()
        for _ in range(_LATE_TRIES if is_late else 1):
            found = await self._find(connection)
            reason = change(knew, found)
            if not reason:
                self.mark = found.mark
                return
            if is_late:
                await asyncio.sleep(LATE_S / _LATE_TRIES)
        if reason == _ANOTHER:
            raise StoreChanged(self._address, reason, "another")
        raise StoreChanged(self._address, reason, "emptied" if found.mark is None else "older")

    async def forget(self, connection: Connection) -> None:
        """Delete the counter."""
        await self._delete_others(connection, "")

    async def _increase(self, connection: Connection, count: Count) -> bool:
        """Increase the counter. False: this user may not read it, so it is of no use."""
        topic, covered = connection.counter_topic, self._last
        self._retained.add(topic)
        await connection.publish(topic, msgspec.json.encode(count), expires_s=EXPIRES_S)
        if self._count is None and not await self._is_readable(connection):
            return False
        self._topic, self._count, self._counted_s = topic, count, asyncio.get_running_loop().time()
        if self._last is covered:
            self._last = None
        await self._delete_others(connection, topic)
        return True

    async def _delete_others(self, connection: Connection, kept: str) -> None:
        for topic in self._retained - {kept}:
            await connection.publish(topic, b"")
            self._retained.discard(topic)

    async def _is_readable(self, connection: Connection) -> bool:
        for _ in range(_LATE_TRIES):
            if await connection.fetch(connection.counter_topic):
                return True
            await asyncio.sleep(LATE_S / _LATE_TRIES)
        return False

    async def _find(self, connection: Connection) -> Known:
        last, revision = self._last or ("", 0)
        try:
            payloads = await connection.fetch(*(topic for topic in (storage.STORE, self._topic, last) if topic))
        except Denied:
            return Known(self.mark, self._count)
        has_last = not last or (last in payloads and storage.revision_of(payloads[last]) >= revision)
        return Known(_decode(payloads, storage.STORE, Mark), _decode(payloads, self._topic, Count), has_last)


def _decode(payloads: dict[str, bytes], topic: str, kind: type[T]) -> T | None:
    with contextlib.suppress(KeyError, msgspec.DecodeError):
        return msgspec.json.decode(payloads[topic], type=kind)
    return None
