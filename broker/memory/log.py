"""What the memory broker keeps: a log per family of topics, and its consumers. No I/O, no clock."""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from broker import filters
from broker.base import Receipt
from broker.errors import Conflict
from broker.families import Family, Keep

DEDUPE_WINDOW_S: Final = 120.0
_COMPACT_AT: Final = 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """One message of a log; `payload` is None where a value was deleted."""

    topic: str
    sequence: int
    time_s: float
    payload: bytes | None


class Log:
    """The messages of one family, numbered from 1, as its `Keep` says."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._last = 0
        self._messages: dict[int, Stored] = {}
        self._order: list[int] = []  # ascending; may name messages that are gone
        self._by_topic: dict[str, int] = {}  # FIRST and LAST only
        self._seen: dict[str, tuple[int, float]] = {}  # dedupe id: sequence, time; oldest first

    @property
    def last_sequence(self) -> int:
        """The number of the newest message there ever was."""
        return self._last

    def append(self, topic: str, payload: bytes | None, now_s: float, dedupe: str | None = None) -> Receipt:
        """Store a message, unless it was seen before or its topic is write-once and taken."""
        self._expire(now_s)
        if dedupe is not None and dedupe in self._seen:
            return Receipt(self._seen[dedupe][0], stored=False)
        existing = self._by_topic.get(topic)
        if existing is not None and self.family.keep is Keep.FIRST:
            return Receipt(existing, stored=False)
        if existing is not None:
            self.discard(existing)
        return self._store(topic, payload, now_s, dedupe)

    def put(self, topic: str, payload: bytes | None, now_s: float, revision: int | None) -> int:
        """Store a value and return its revision.

        Raises:
            Conflict: `revision` is given, and the value is at another one.
        """
        found = self.value(topic)
        expected = {
            0 if found is None or found.payload is None else found.sequence,
            found.sequence if found else 0,
        }
        if revision is not None and revision not in expected:
            raise Conflict(topic, revision)
        return self.append(topic, payload, now_s).sequence

    def value(self, topic: str) -> Stored | None:
        """The message under a FIRST or LAST topic; without a payload if it was deleted."""
        sequence = self._by_topic.get(topic)
        return None if sequence is None else self._messages[sequence]

    def values(self, topic_filter: str) -> list[Stored]:
        """The values under a filter, oldest change first."""
        found = [self._messages[n] for topic, n in self._by_topic.items() if filters.matches(topic_filter, topic)]
        return sorted((m for m in found if m.payload is not None), key=lambda message: message.sequence)

    def get(self, sequence: int) -> Stored | None:
        """The message of that number, if it is still kept."""
        return self._messages.get(sequence)

    def after(self, sequence: int, topic_filter: str) -> Iterator[Stored]:
        """The messages under a filter that come after a number, in order."""
        for index in range(bisect.bisect_right(self._order, sequence), len(self._order)):
            message = self._messages.get(self._order[index])
            if message is not None and filters.matches(topic_filter, message.topic):
                yield message

    def before(self, time_s: float) -> int:
        """The number of the last message stored before a time; 0 if there is none."""
        older = (n for n in reversed(self._order) if n in self._messages and self._messages[n].time_s < time_s)
        return next(older, 0)

    def purge(self, topic_filter: str) -> None:
        """Forget the messages under a filter."""
        for message in list(self.after(0, topic_filter)):
            self.discard(message.sequence)

    def discard(self, sequence: int) -> None:
        """Forget one message."""
        message = self._messages.pop(sequence, None)
        if message is not None and self._by_topic.get(message.topic) == sequence:
            del self._by_topic[message.topic]
        if len(self._order) > 2 * len(self._messages) + _COMPACT_AT:
            self._order = [n for n in self._order if n in self._messages]

    def _store(self, topic: str, payload: bytes | None, now_s: float, dedupe: str | None) -> Receipt:
        self._last += 1
        self._messages[self._last] = Stored(topic, self._last, now_s, payload)
        self._order.append(self._last)
        if self.family.keep in (Keep.FIRST, Keep.LAST):
            self._by_topic[topic] = self._last
        if dedupe is not None:
            self._seen[dedupe] = (self._last, now_s)
        return Receipt(self._last)

    def _expire(self, now_s: float) -> None:
        for seen in list(itertools.takewhile(lambda s: self._seen[s][1] < now_s - DEDUPE_WINDOW_S, self._seen)):
            del self._seen[seen]
        if not self.family.max_age_s:
            return
        oldest_s = now_s - self.family.max_age_s
        for sequence in list(itertools.takewhile(lambda n: self._messages[n].time_s < oldest_s, self._messages)):
            self.discard(sequence)


@dataclass(slots=True)
class Unacked:
    """A delivery that nobody acknowledged yet."""

    attempt: int
    due_s: float  # when to deliver it again
    holder: int | None  # who has it now; None once it was given back


@dataclass(slots=True)
class Consumer:
    """A durable's place in a log, and what its subscribers hold un-acknowledged."""

    log: Log
    topic_filter: str
    cursor: int = 0
    unacked: dict[int, Unacked] = field(default_factory=dict)

    def take(self, holder: int, now_s: float, ack_wait_s: float) -> tuple[Stored, int] | None:
        """The next message to deliver to a subscriber and which attempt it is; None if there is none now."""
        message = self._overdue(now_s) or next(self.log.after(self.cursor, self.topic_filter), None)
        if message is None:
            self.cursor = self.log.last_sequence
            return None
        self.cursor = max(self.cursor, message.sequence)
        before = self.unacked.get(message.sequence)
        attempt = 1 if before is None else before.attempt + 1
        self.unacked[message.sequence] = Unacked(attempt, now_s + ack_wait_s, holder)
        return message, attempt

    def held(self, holder: int, now_s: float) -> list[float]:
        """When each delivery that a subscriber holds is due; one that is overdue is no longer its own."""
        return [one.due_s for one in self.unacked.values() if one.holder == holder and one.due_s > now_s]

    def next_due_s(self) -> float | None:
        """When the next delivery is to be made again, if any."""
        return min((one.due_s for one in self.unacked.values()), default=None)

    def ack(self, sequence: int) -> None:
        """That message is done; a QUEUE forgets it."""
        if self.unacked.pop(sequence, None) is not None and self.log.family.keep is Keep.QUEUE:
            self.log.discard(sequence)

    def nak(self, sequence: int, due_s: float) -> None:
        """Deliver that message again, not before `due_s`."""
        if pending := self.unacked.get(sequence):
            pending.due_s, pending.holder = due_s, None

    def extend(self, sequence: int, due_s: float) -> None:
        """Someone is still at work on that message until `due_s`."""
        if pending := self.unacked.get(sequence):
            pending.due_s = due_s

    def _overdue(self, now_s: float) -> Stored | None:
        for sequence in sorted(n for n, pending in self.unacked.items() if pending.due_s <= now_s):
            message = self.log.get(sequence)
            if message is not None:
                return message
            del self.unacked[sequence]  # purged or expired meanwhile
        return None
